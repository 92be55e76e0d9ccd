"""Every way into the runtime, as functions of one shape."""

import asyncio
from collections.abc import Callable

import httpx

from deployments.contract import wire
from deployments.contract.errors import ERRORS, ServingError
from deployments.contract.types import Error, InferRequest, InferResponse
from serve_app.client import AsyncModelRuntimeClient, ModelRuntimeClient
from tests.support.running import Running

Entrance = Callable[[Running, InferRequest], InferResponse]


def over_http(media_type: str) -> Entrance:
    def infer(runtime: Running, request: InferRequest) -> InferResponse:
        headers = {"content-type": media_type}
        reply = httpx.post(
            f"{runtime.url}/infer", content=wire.encode(request, media_type), headers=headers, timeout=60
        )
        answer = wire.decode(reply.content, media_type, InferResponse)
        if media_type != wire.BINCODE:  # which has no room for the code
            expected = ERRORS[answer.code or ""].status if isinstance(answer, Error) else 200
            assert reply.status_code == expected
        return answer

    return infer


def over_the_handle(runtime: Running, request: InferRequest) -> InferResponse:
    response: InferResponse = runtime.handle.infer.remote(request).result(timeout_s=60)
    return response


def with_the_client(target: str) -> Entrance:
    def infer(runtime: Running, request: InferRequest) -> InferResponse:
        with ModelRuntimeClient(getattr(runtime, target)) as client:
            return raising(lambda: client.infer(request))

    return infer


def with_the_async_client(target: str) -> Entrance:
    def infer(runtime: Running, request: InferRequest) -> InferResponse:
        async def ask() -> InferResponse:
            async with AsyncModelRuntimeClient(getattr(runtime, target)) as client:
                return await client.infer(request)

        return raising(lambda: asyncio.run(ask()))

    return infer


def raising(ask: Callable[[], InferResponse]) -> InferResponse:
    try:
        return ask()
    except ServingError as failure:
        return Error.of(failure)


ENTRANCES: dict[str, Entrance] = {
    "json": over_http(wire.JSON),
    "bincode": over_http(wire.BINCODE),
    "msgpack": over_http(wire.MSGPACK),
    "handle": over_the_handle,
    "client": with_the_client("url"),
    "client-on-handle": with_the_client("handle"),
    "async-client": with_the_async_client("url"),
    "async-client-on-handle": with_the_async_client("handle"),
}
