"""Which replicas are reached directly: on this machine by Unix sockets, elsewhere by TCP with the cluster's secret."""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from deployments.contract.types import TextGenerationResult
from deployments.replica.handshake import ClusterNetwork
from deployments.replica.launcher_profile import LauncherProfile
from serve_app.dispatch import connections
from serve_app.dispatch.connections import Connections
from tests.serve_app.dispatch.sockets import SocketReplica, open_in, socket_folder
from tests.serve_app.dispatch.test_replica_pool import pending, table
from tests.support import PROJECT
from tests.support.ports import free_port
from tests.support.until import turns, until

NETWORK = ClusterNetwork("127.0.0.1", b"the secret")
CHILD = """
import asyncio, sys
from deployments.replica.handshake import ClusterNetwork
from tests.serve_app.dispatch.sockets import SocketReplica

async def serve():
    print(SocketReplica(None, ClusterNetwork("127.0.0.1", sys.argv[1].encode())).server.address[1], flush=True)
    await asyncio.Event().wait()

asyncio.run(serve())
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    with socket_folder() as folder:
        yield folder


async def close(connected: Connections) -> None:
    """Both ends of each of its connections."""
    sockets = open_in(connected)
    connected.update({})
    await until(lambda: not connected._connecting)
    await until(lambda: all(socket.transport and socket.transport.is_closing() for socket in sockets))
    await turns(5)


@asynccontextmanager
async def tcp_replica() -> AsyncIterator[SocketReplica]:
    replica = SocketReplica(None, NETWORK)
    yield replica
    await replica.close()


@pytest.mark.slow
async def test_a_replica_of_another_process_is_called_over_tcp(caplog: pytest.LogCaptureFixture) -> None:
    """The same child refuses an ingress with another secret, which says so once."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, "the secret", cwd=PROJECT, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        stats = table(a={"address": ("127.0.0.1", int(await child.stdout.readline()))})
        ours, strangers = Connections(None, NETWORK), Connections(None, ClusterNetwork("127.0.0.1", b"another"))
        with caplog.at_level(logging.WARNING, "ray.serve"):
            for each in (ours, strangers):
                each.update(stats)
            await until(lambda: open_in(ours) and strangers.unreachable)
        assert await open_in(ours)[0].send(pending("hello")) == TextGenerationResult(generated_text="hello")
        assert open_in(strangers) == []
        assert caplog.text.count("replica a cannot be reached directly") == 1
        for each in (ours, strangers):
            await close(each)
    finally:
        child.kill()
        await child.wait()


async def test_a_replica_on_this_machine_is_reached_by_its_unix_socket(folder: Path) -> None:
    replica = SocketReplica(folder / "a.sock", NETWORK)
    near = Connections(LauncherProfile(folder), NETWORK)
    near.update(table(a={"address": replica.server.address}))
    await until(lambda: open_in(near))
    transport = open_in(near)[0].transport
    assert transport is not None
    assert transport.get_extra_info("peername") == str(folder / "a.sock")
    await close(near)
    await replica.close()


async def test_a_replica_is_connected_once_it_says_where_it_is() -> None:
    async with tcp_replica() as replica:
        far = Connections(None, NETWORK)
        far.update(table(a={}))
        assert not open_in(far)
        far.update(table(a={"address": replica.server.address}))
        await until(lambda: open_in(far))
        await close(far)


async def test_a_replica_that_could_not_be_reached_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "RETRY_S", 0.001)
    port = free_port()
    far = Connections(None, NETWORK)
    far.update(table(a={"address": ("127.0.0.1", port)}))
    await until(lambda: far.unreachable == {"a"})
    async with tcp_replica() as replica:
        reach = far._reach
        monkeypatch.setattr(far, "_reach", lambda _, socket: reach(replica.server.address or "", socket))
        await until(lambda: open_in(far))
        assert not far.unreachable
        await close(far)


async def test_a_replica_that_ended_is_tried_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "RETRY_S", 0.001)
    far = Connections(None, NETWORK)
    far.update(table(a={"address": ("127.0.0.1", free_port())}))
    await until(lambda: far.unreachable)
    await close(far)
    assert not far.unreachable


async def test_without_the_secret_no_other_node_is_called() -> None:
    async with tcp_replica() as replica:
        far = Connections(None, None)
        far.update(table(a={"address": replica.server.address}))
        assert not far._connecting
