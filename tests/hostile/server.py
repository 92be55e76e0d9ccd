"""The HTTP application without Ray: both middlewares under uvicorn, as in Serve, and a runtime that answers at once.

python -m tests.hostile.server PORT
"""

import asyncio
import sys
from collections.abc import AsyncGenerator

import uvicorn
from ray.serve._private.http_util import RequestIdMiddleware
from starlette.types import ASGIApp

from deployments.contract.errors import ModelNotFound, ServingError, quoted
from deployments.contract.failures import error_of
from deployments.contract.status import ModelStatus, Verb
from deployments.contract.types import (
    Chunk,
    Error,
    ImageClassification,
    ImageClassificationResult,
    InferResponse,
    TextGeneration,
    TextGenerationResult,
)
from deployments.replica.calls import Reply
from serve_app.access.api_keys import Access, AccessSettings
from serve_app.access.caller import RequestContext
from serve_app.config.config import IngressSettings
from serve_app.http.interfaces import Asked
from serve_app.http.middleware import ControlHeaderFilter
from tests.support.http_app import http_app

ENDLESS = "endless"
"""A model whose requests never end."""


class AtOnce:
    """Answers every request that can be decoded. Its metrics are counts of the requests that reached it."""

    def __init__(self) -> None:
        self.under_way = 0
        self.listed = 0
        """Requests for the list of models."""
        self.settings = IngressSettings(max_body_mb=1, max_held_mb=64)
        self.access = Access(AccessSettings())

    async def answer(self, asked: Asked, context: RequestContext) -> InferResponse:
        self.under_way += 1
        try:
            if isinstance(asked, ServingError):
                raise asked
            if asked.model_id == ENDLESS:
                await asyncio.Event().wait()
            if isinstance(asked, ImageClassification):
                return ImageClassificationResult(class_labels=["cat"], probabilities=[1.0], model_id=asked.model_id)
            assert isinstance(asked, TextGeneration)
            return TextGenerationResult(generated_text=asked.prompt, model_id=asked.model_id)
        except Exception as cause:
            return error_of(cause, context.request_id)
        finally:
            self.under_way -= 1

    async def stream(self, asked: Asked, context: RequestContext) -> AsyncGenerator[Reply, None]:
        yield Chunk("a", 1)
        yield await self.answer(asked, context)

    async def models(self) -> list[ModelStatus]:
        self.listed += 1
        return []

    async def administer(self, verb: Verb, name: str) -> Error:
        return Error.of(ModelNotFound(f"there is no model {quoted(name)}"), "")

    async def ready(self) -> bool:
        return True

    async def metrics(self) -> str:
        return f"under_way {self.under_way}\nlisted {self.listed}\n"


def app() -> ASGIApp:
    return ControlHeaderFilter(RequestIdMiddleware(http_app(AtOnce())))


def main(port: int) -> None:
    """Without loops of uvicorn's own choice or signals, as in a replica."""
    uvicorn.run(app(), host="127.0.0.1", port=port, lifespan="off", access_log=False, log_level="critical")


if __name__ == "__main__":
    main(int(sys.argv[1]))
