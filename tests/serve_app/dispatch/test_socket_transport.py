"""The ingress's end of a connection to a replica: every call ends, with a response, cancelled, or as lost."""

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.serve._private.common import DeploymentID
from ray.serve.request_router import ReplicaID

from deployments.contract.chunk import Chunk
from deployments.contract.types import InferResponse, TextGeneration, TextGenerationResult
from deployments.replica.calls import Call
from serve_app.dispatch.pending import Pending, ReplicaLost
from serve_app.dispatch.socket_transport import SocketTransport
from tests.serve_app.dispatch.calls import pending_of, stream_of
from tests.serve_app.dispatch.sockets import SocketReplica, socket_folder
from tests.support.until import until

numbers = itertools.count()
REPLICA = ReplicaID("a", DeploymentID("Text"))


@pytest.fixture
def path() -> Iterator[Path]:
    with socket_folder() as folder:
        yield folder / "a.sock"


def call(prompt: str, stream: bool = False) -> Call:
    request = TextGeneration(model_id="m", prompt=prompt, max_tokens=1)
    return Call(request, "r", 60, stream=stream, call_id=f"call-{next(numbers)}")


async def connected(path: Path, lost: list[SocketTransport]) -> SocketTransport:
    loop = asyncio.get_running_loop()
    _, transport = await loop.create_unix_connection(lambda: SocketTransport(REPLICA, lost.append), str(path))
    return transport


def send(transport: SocketTransport, pending: Pending) -> "asyncio.Task[InferResponse]":
    return asyncio.create_task(transport.send(pending))


async def test_calls_are_answered_as_they_are_done_not_in_order(path: Path) -> None:
    replica = SocketReplica(path)
    transport = await connected(path, [])
    slow = send(transport, pending_of(call("wait")))
    stream = stream_of(call("ab", stream=True))
    assert await transport.send(stream) == TextGenerationResult(generated_text="ab")
    assert await stream.next_chunk() == Chunk("ab", 2)
    assert stream.replica == "a"
    assert len(transport.pending) == 1
    replica.go.set()
    assert await slow == TextGenerationResult(generated_text="wait")
    assert not transport.pending
    await replica.close()


async def test_a_cancelled_call_is_cancelled_at_its_replica(path: Path) -> None:
    replica = SocketReplica(path)
    transport = await connected(path, [])
    pending = pending_of(call("wait"))
    sending = send(transport, pending)
    await until(lambda: replica.begun)
    sending.cancel()
    await until(lambda: replica.cancelled == [pending.call.call_id])
    assert not transport.pending
    await replica.close()


async def test_a_replica_that_stops_takes_no_new_calls_and_answers_those_it_has(path: Path) -> None:
    replica, lost = SocketReplica(path), list[SocketTransport]()
    transport = await connected(path, lost)
    slow = send(transport, pending_of(call("wait")))
    await until(lambda: replica.begun)
    stopping = asyncio.create_task(replica.server.close())
    await until(lambda: not transport.open)
    replica.go.set()
    assert await slow == TextGenerationResult(generated_text="wait")
    await stopping
    await until(lambda: lost == [transport])


async def test_calls_of_a_lost_connection_without_a_response_fail_as_lost(path: Path) -> None:
    replica, lost = SocketReplica(path), list[SocketTransport]()
    transport = await connected(path, lost)
    slow = send(transport, pending_of(call("wait")))
    await until(lambda: replica.begun)
    await replica.drop_connections()
    with pytest.raises(ReplicaLost):
        await slow
    assert lost == [transport]
    assert not transport.open
    await replica.close()
