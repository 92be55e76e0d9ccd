"""Every failure that a caller can receive: one class for each code. Imports neither torch nor Ray.

The codes, HTTP statuses and gRPC names are the table in docs/contract.md.
"""


class ServingError(Exception):
    """A failure with a stable `code`. Takes one string, so that it survives pickling."""

    code = "internal"
    status = 500
    grpc = "INTERNAL"
    retryable = False
    retry_after_ms: int | None = None

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def again(self) -> "ServingError":
        """A copy to raise again, without the first one's traceback."""
        return self.saying(self.message)

    def saying(self, message: str) -> "ServingError":
        """The same failure in other words."""
        copy = type(self)(message)
        copy.retryable, copy.retry_after_ms = self.retryable, self.retry_after_ms
        return copy


class InvalidRequest(ServingError):
    code, status, grpc = "invalid_request", 400, "INVALID_ARGUMENT"


class Unauthenticated(ServingError):
    code, status, grpc = "unauthenticated", 401, "UNAUTHENTICATED"


class PermissionDenied(ServingError):
    code, status, grpc = "permission_denied", 403, "PERMISSION_DENIED"


class ModelNotFound(ServingError):
    code, status, grpc = "model_not_found", 404, "NOT_FOUND"


class WrongFamily(ServingError):
    code, status, grpc = "wrong_family", 400, "INVALID_ARGUMENT"


class NotFound(ServingError):
    code, status, grpc = "not_found", 404, "UNIMPLEMENTED"


class MethodNotAllowed(ServingError):
    code, status, grpc = "method_not_allowed", 405, "UNIMPLEMENTED"


class PayloadTooLarge(ServingError):
    code, status, grpc = "payload_too_large", 413, "INVALID_ARGUMENT"


class HeadersTooLarge(ServingError):
    code, status, grpc = "headers_too_large", 431, "INVALID_ARGUMENT"


class RequestTimeout(ServingError):
    code, status, grpc = "request_timeout", 408, "INVALID_ARGUMENT"


class UnsupportedMediaType(ServingError):
    code, status, grpc = "unsupported_media_type", 415, "INVALID_ARGUMENT"


class InvalidImage(ServingError):
    code, status, grpc = "invalid_image", 422, "INVALID_ARGUMENT"


class InvalidAudio(ServingError):
    code, status, grpc = "invalid_audio", 422, "INVALID_ARGUMENT"


class PromptTooLong(ServingError):
    code, status, grpc = "prompt_too_long", 422, "INVALID_ARGUMENT"


class InputQuarantined(ServingError):
    """The input has ended replicas that computed nothing else."""

    code, status, grpc = "input_quarantined", 422, "FAILED_PRECONDITION"


class ModelLoadFailed(ServingError):
    """Not retryable where the model's folder is at fault: until it changes, the next load fails too."""

    code, status, grpc = "model_load_failed", 503, "FAILED_PRECONDITION"

    @classmethod
    def for_now(cls, message: str) -> "ModelLoadFailed":
        """A failure whose cause may pass, such as a disk that is full. Retryable."""
        failure = cls(message)
        failure.retryable = True
        return failure


class OutOfMemory(ServingError):
    code, status, grpc = "out_of_memory", 507, "RESOURCE_EXHAUSTED"


class Overloaded(ServingError):
    code, status, grpc, retryable = "overloaded", 429, "RESOURCE_EXHAUSTED", True
    retry_after_ms: int | None = 1000
    """Where nothing better is known: an `overloaded` always has a time to retry after."""


class DeadlineExceeded(ServingError):
    code, status, grpc, retryable = "deadline_exceeded", 504, "DEADLINE_EXCEEDED", True


class Cancelled(ServingError):
    code, status, grpc = "cancelled", 499, "CANCELLED"


class Unavailable(ServingError):
    code, status, grpc, retryable = "unavailable", 503, "UNAVAILABLE", True


class Internal(ServingError):
    """The reason is in the log under the request id, never in the message."""


ERRORS: dict[str, type[ServingError]] = {kind.code: kind for kind in ServingError.__subclasses__()}


def quoted(text: str) -> str:
    """Text of a client for a message: quoted, at most 64 characters, control characters escaped."""
    shown = text if len(text) <= 64 else text[:63] + "…"
    safe = (c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in shown)
    return f"'{''.join(safe)}'"
