"""Who sends a request, with which priority and deadline. Knows no HTTP and no settings."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

PRIORITY_HEADER = "x-priority"
TRACE_HEADER = "traceparent"
"""W3C's: the caller's trace, and its span."""
DEADLINE_HEADER = "x-deadline-ms"
"""Milliseconds from now for which the caller has use of an answer."""


class Priority(enum.IntEnum):
    """Of two waiting requests, the one with the lower value is sent first."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


@dataclass(frozen=True, slots=True)
class Caller:
    """`name`: of the API key, empty without keys."""

    name: str = ""
    share: int = 1
    """Where requests wait, this many are sent for each one of a caller with share 1."""
    priority: Priority = Priority.NORMAL
    deadline_at: float | None = None
    """On the clock of time.monotonic. None: the family's own deadline holds."""


ANONYMOUS = Caller()
"""The caller of a request without an API key, priority or deadline."""


@dataclass(frozen=True, slots=True)
class RequestContext:
    """What belongs to one request beside its content."""

    request_id: str
    caller: Caller = ANONYMOUS
    left_open: Mapping[str, object] = field(default_factory=dict)
    """Fields that the request leaves out, with the values of its protocol, for where the model has none either."""
    traceparent: str = ""

    def of(self, number: int) -> "RequestContext":
        """The context of one of several requests that came as one. Sent again, each has the id that it had."""
        return replace(self, request_id=f"{self.request_id}-{number}") if number else self
