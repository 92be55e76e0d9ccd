"""A runtime that says "hey" to whatever it is asked, for tests of what HTTP makes of it."""

from collections.abc import AsyncGenerator
from typing import Any

from deployments.contract.errors import ModelNotFound, ServingError
from deployments.contract.failures import error_of
from deployments.contract.status import ModelStatus, Verb
from deployments.contract.types import (
    Alternative,
    Chunk,
    Error,
    InferResponse,
    TextGeneration,
    TextGenerationResult,
    TokenLogprob,
    Usage,
)
from deployments.replica.calls import Reply
from serve_app.access.api_keys import Access, AccessSettings
from serve_app.access.caller import RequestContext
from serve_app.config.config import IngressSettings
from serve_app.http.interfaces import Asked

SAID = (
    TokenLogprob(
        token="he", logprob=-0.5, utf8=[104, 101], top=[Alternative(token="hi", logprob=-0.4, utf8=[104, 105])]
    ),
    TokenLogprob(token="y", logprob=-1.5, utf8=[121], top=[Alternative(token="y", logprob=-1.5, utf8=[121])]),
)


class Parrot:
    """A runtime that says "hey" to everything, or fails as it is told to."""

    def __init__(self) -> None:
        self.settings = IngressSettings(max_body_mb=1)
        self.access = Access(AccessSettings())
        self.asked: list[TextGeneration] = []
        self.fails_before: ServingError | None = None
        self.fails_after: ServingError | None = None
        self.under_way = 0

    async def answer(self, asked: Asked, context: RequestContext) -> InferResponse:
        *_, answer = [reply async for reply in self.stream(asked, context)]
        assert isinstance(answer, InferResponse)
        return answer

    async def stream(self, asked: Asked, context: RequestContext) -> AsyncGenerator[Reply, None]:
        self.under_way += 1
        try:
            if isinstance(asked, ServingError):
                raise asked
            assert isinstance(asked, TextGeneration)
            self.asked.append(asked)
            if self.fails_before:
                raise self.fails_before
            logprobs = SAID if asked.logprobs is not None else ()
            yield Chunk("he", 1, logprobs[:1])
            if self.fails_after:
                raise self.fails_after
            yield Chunk("y", 2, logprobs[1:])
            yield TextGenerationResult(
                generated_text="hey",
                model_id="m@1",
                finish_reason="stop",
                usage=Usage(prompt_tokens=3, completion_tokens=2),
                logprobs=list(SAID) if asked.logprobs is not None else None,
            )
        except ServingError as cause:
            yield error_of(cause, context.request_id)
        finally:
            self.under_way -= 1

    async def models(self) -> list[ModelStatus]:
        rest: dict[str, Any] = {name: [] for name in ("resident_bytes", "replicas", "notes")}
        rest |= dict.fromkeys(("declared_bytes", "loads", "evictions"), 0)
        rest |= {"reason": None, "last_use": None, "pinned": False}
        return [
            ModelStatus(model_id="team/m", version=2, versions=[1, 2], family="text_generation", state="ready", **rest),
            ModelStatus(model_id="i", version=None, versions=[], family="image_classification", state="ready", **rest),
        ]

    async def administer(self, verb: Verb, name: str) -> Error:
        return Error.of(ModelNotFound(f"no model {name}"))

    async def ready(self) -> bool:
        return True

    async def metrics(self) -> str:
        return ""
