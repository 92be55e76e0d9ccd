from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from serve_app.grpc.server import GrpcServer
from serve_app.grpc.stubs.inference_pb2_grpc import InferenceStub
from tests.support.http_runtimes import SIGNATURES, FakeRuntime, saying_hey


@pytest.fixture
def runtime() -> FakeRuntime:
    return FakeRuntime(saying_hey())


@pytest.fixture
async def channel(runtime: FakeRuntime) -> AsyncIterator[Any]:
    server = GrpcServer("127.0.0.1:0", runtime.settings, runtime.access, runtime, runtime, SIGNATURES)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield channel
    await server.close()


@pytest.fixture
def stub(channel: Any) -> Any:
    return InferenceStub(channel)  # type: ignore[no-untyped-call]
