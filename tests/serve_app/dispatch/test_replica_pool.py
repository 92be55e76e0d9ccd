"""Which transport a call takes: a socket of a replica that holds the model, or the handle where none is reached."""

import asyncio
import itertools
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ray.serve._private.common import DeploymentID
from ray.serve.request_router import ReplicaID

from deployments.contract.types import InferResponse, TextGeneration, TextGenerationResult
from deployments.replica.calls import Call, Holdings, ReplicaLost
from deployments.replica.handshake import ClusterNetwork
from deployments.replica.launcher_profile import LauncherProfile
from serve_app.dispatch.connections import SocketTransport
from serve_app.dispatch.handle_transport import HandleTransport
from serve_app.dispatch.pending import Pending
from serve_app.dispatch.replica_pool import MANY_TRANSPORTS, ReplicaPool
from tests.serve_app.dispatch.calls import pending_of
from tests.serve_app.dispatch.handles import FakeHandle
from tests.serve_app.dispatch.sockets import SocketReplica, open_in, socket_folder
from tests.support.ports import free_port
from tests.support.until import until

numbers = itertools.count()
NETWORK = ClusterNetwork("127.0.0.1", b"the secret")


@dataclass(frozen=True)
class Running:
    """Of Serve's RunningReplica, what the pool reads."""

    routing_stats: dict[str, Any] = field(default_factory=dict)


def table(**stats: dict[str, Any]) -> dict[ReplicaID, Any]:
    return {ReplicaID(name, DeploymentID("Text")): Running(of_replica) for name, of_replica in stats.items()}


@pytest.fixture
def folder() -> Iterator[Path]:
    with socket_folder() as folder:
        yield folder


@pytest.fixture
def handle() -> FakeHandle:
    return FakeHandle()


@pytest.fixture
def pool(handle: FakeHandle, folder: Path) -> ReplicaPool:
    return ReplicaPool(handle.handle(), 2, LauncherProfile(folder))


def picked_socket(pool: ReplicaPool, model: str = "m") -> SocketTransport | None:
    transport = pool.pick(model)
    return transport if isinstance(transport, SocketTransport) else None


async def socket_of(pool: ReplicaPool) -> SocketTransport:
    """The picked socket, once there is one."""
    socket = await until(lambda: picked_socket(pool))
    assert socket is not None
    return socket


def pending(prompt: str) -> Pending:
    request = TextGeneration(model_id="m", prompt=prompt, max_tokens=1)
    return pending_of(Call(request, "r", 60, call_id=f"call-{next(numbers)}"))


def waiting_calls(transport: SocketTransport, count: int) -> "list[asyncio.Task[InferResponse]]":
    return [asyncio.create_task(transport.send(pending("wait"))) for _ in range(count)]


async def test_a_handle_that_is_not_connected_has_no_replica_and_takes_the_calls(pool: ReplicaPool) -> None:
    assert pool.count() == 0
    assert isinstance(pool.pick("m"), HandleTransport)
    assert pool.pick("m") is pool.pick("m")
    assert pool.pick("m") is not pool.pick("n")


async def test_without_the_fast_profile_all_calls_take_the_handle(handle: FakeHandle) -> None:
    pool = ReplicaPool(handle.handle(), 2)
    handle.show(table(a={}))
    assert pool.count() == 1
    assert isinstance(pool.pick("m"), HandleTransport)


async def test_handle_transports_without_a_call_are_deleted(pool: ReplicaPool) -> None:
    for number in range(2 * MANY_TRANSPORTS):
        pool.pick(str(number))
    assert len(pool._handle_transports) <= MANY_TRANSPORTS


async def test_a_lost_connection_is_made_again_while_its_replica_runs(
    pool: ReplicaPool, handle: FakeHandle, folder: Path
) -> None:
    replica = SocketReplica(folder / "a.sock")
    handle.show(table(a={}))
    first = await socket_of(pool)
    await replica.drop_connections()
    await until(lambda: not first.open)
    second = await socket_of(pool)
    assert second is not first
    assert await second.send(pending("b")) == TextGenerationResult(generated_text="b")
    await replica.close()


async def test_a_replica_that_cannot_be_reached_gets_no_call(
    pool: ReplicaPool, handle: FakeHandle, folder: Path
) -> None:
    alive = SocketReplica(folder / "alive.sock")
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(folder / "dead.sock"))
    handle.show(table(dead={}, alive={}))
    picked = await socket_of(pool)
    assert await picked.send(pending("a")) == TextGenerationResult(generated_text="a")
    await alive.close()


async def test_a_replica_on_another_node_is_called_directly_beside_one_on_this(
    handle: FakeHandle, folder: Path
) -> None:
    here, elsewhere = SocketReplica(folder / "here.sock"), SocketReplica(None, NETWORK)
    pool = ReplicaPool(handle.handle(), 1, LauncherProfile(folder), NETWORK)
    handle.show(table(here={}, elsewhere={"address": elsewhere.server.address}))
    pool.pick("")
    await until(lambda: len(open_in(pool._connections)) == 2)
    first = await socket_of(pool)
    calls = waiting_calls(first, 1)
    await until(lambda: first.pending)
    second = await socket_of(pool)
    assert second is not first
    calls += waiting_calls(second, 1)
    await until(lambda: here.begun and elsewhere.begun)
    for replica in (here, elsewhere):
        await replica.close()
    await asyncio.gather(*calls)


async def test_a_replica_that_is_not_reached_directly_takes_the_calls_that_are_too_many_for_the_others(
    handle: FakeHandle, folder: Path
) -> None:
    here = SocketReplica(folder / "here.sock")
    pool = ReplicaPool(handle.handle(), 1, LauncherProfile(folder), NETWORK)
    handle.show(table(here={}, behind_a_firewall={"address": ("127.0.0.1", free_port())}))
    picked = await socket_of(pool)
    await until(lambda: pool._connections.unreachable)
    assert pool.pick("m") is picked
    calls = waiting_calls(picked, 1)
    await until(lambda: here.begun)
    assert isinstance(pool.pick("m"), HandleTransport)
    await here.close()
    await asyncio.gather(*calls)
    handle.show({})
    pool.pick("")


class TwoReplicas:
    """Both connected, and each of them has reported what it holds."""

    def __init__(self, handle: FakeHandle, folder: Path) -> None:
        self.handle = handle
        self.replicas = [SocketReplica(folder / f"{name}.sock") for name in "ab"]

    async def connect(self, pool: ReplicaPool, **held: Holdings) -> None:
        for name, replica in zip("ab", self.replicas, strict=True):
            replica.held = held.get(name, replica.held)
        self.handle.show(table(a={}, b={}))
        pool.pick("")
        await until(lambda: len(open_in(pool._connections)) == 2)
        await until(lambda: all(replica.server.connections for replica in self.replicas))
        await self.reported(pool)

    async def reported(self, pool: ReplicaPool) -> None:
        """Returns once the pool knows what they hold."""
        held = {name: replica.held.models for name, replica in zip("ab", self.replicas, strict=True)}
        await until(lambda: {socket.replica: socket.memory.held for socket in open_in(pool._connections)} == held)

    async def close(self) -> None:
        for replica in self.replicas:
            await replica.close()


async def test_a_model_stays_with_its_replica_until_that_has_its_target_of_calls(
    pool: ReplicaPool, handle: FakeHandle, folder: Path
) -> None:
    both = TwoReplicas(handle, folder)
    await both.connect(pool)
    first = picked_socket(pool)
    assert first is not None
    assert picked_socket(pool) is first
    calls = waiting_calls(first, 1)
    await until(lambda: len(first.pending) == 1)
    assert picked_socket(pool) is first
    calls += waiting_calls(first, 1)
    await until(lambda: len(first.pending) == 2)
    second = picked_socket(pool)
    assert second is not None
    assert second is not first
    await until(lambda: sum(len(replica.begun) for replica in both.replicas) == 2)
    await both.close()
    await asyncio.gather(*calls)


async def test_a_call_goes_where_the_model_is_in_memory_now(
    pool: ReplicaPool, handle: FakeHandle, folder: Path
) -> None:
    both = TwoReplicas(handle, folder)
    await both.connect(pool, b=Holdings(frozenset("m"), 0.1))
    holder = picked_socket(pool)
    assert holder is not None
    assert holder.replica == "b"
    both.replicas[1].held = Holdings()
    both.replicas[0].held = Holdings(frozenset("m"), 0.1)
    for replica in both.replicas:
        replica.server.report_holdings()
    await both.reported(pool)
    moved = picked_socket(pool)
    assert moved is not None
    assert moved.replica == "a"
    await both.close()


async def test_a_model_that_no_replica_holds_goes_where_most_memory_is_free(
    pool: ReplicaPool, handle: FakeHandle, folder: Path
) -> None:
    both = TwoReplicas(handle, folder)
    await both.connect(pool, a=Holdings(frozenset("x"), 0.2), b=Holdings(frozenset("y"), 0.25))
    picked = [picked_socket(pool, model) for model in ("m", "n")]
    # The second one has already been sent a model that takes some of its memory.
    assert [transport.replica for transport in picked if transport] == ["b", "a"]
    await both.close()


async def test_a_call_whose_replica_was_lost_takes_another_one_and_the_handle_only_where_none_is_connected(
    pool: ReplicaPool, handle: FakeHandle, folder: Path
) -> None:
    both = TwoReplicas(handle, folder)
    await both.connect(pool)
    lost = picked_socket(pool)
    assert lost is not None
    call = waiting_calls(lost, 1)[0]
    replica = both.replicas["ab".index(lost.replica)]
    await until(lambda: replica.begun)
    await replica.drop_connections()
    with pytest.raises(ReplicaLost):
        await call
    again = pool.pick_again("m")
    assert isinstance(again, SocketTransport)
    assert again is not lost
    assert await again.send(pending("a")) == TextGenerationResult(generated_text="a")
    await both.close()
    handle.show({})
    pool.pick("m")
    assert isinstance(pool.pick_again("m"), HandleTransport)


async def test_the_only_replica_keeps_its_calls_while_serve_does_not_list_it(
    pool: ReplicaPool, handle: FakeHandle, folder: Path
) -> None:
    """Serve hands it new settings meanwhile. One that ends announces that itself."""
    both = TwoReplicas(handle, folder)
    await both.connect(pool)
    handle.show({})
    kept = pool.pick("m")
    assert isinstance(kept, SocketTransport)
    assert await kept.send(pending("a")) == TextGenerationResult(generated_text="a")
    for replica in both.replicas:
        await replica.drop_connections()
    await until(lambda: isinstance(pool.pick("m"), HandleTransport))
    await both.close()


async def test_a_replica_that_ended_is_disconnected(pool: ReplicaPool, handle: FakeHandle, folder: Path) -> None:
    both = TwoReplicas(handle, folder)
    await both.connect(pool)
    handle.show(table(b={}))
    remaining = picked_socket(pool)
    assert remaining is not None
    assert remaining.replica == "b"
    await until(lambda: not both.replicas[0].server.connections)
    await both.close()
