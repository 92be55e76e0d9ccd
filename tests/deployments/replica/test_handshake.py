"""The handshake before a TCP connection carries frames: both ends prove the secret, or nothing is read."""

import asyncio
import pickle
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

from deployments.contract.types import ImageClassification, InferResponse, TextGenerationResult
from deployments.replica import handshake
from deployments.replica.calls import Call, Holdings, OnChunk, OnNews
from deployments.replica.handshake import ClusterNetwork, connect
from deployments.replica.socket_server import ReplicaSocketServer
from tests.deployments.replica.test_connection import Receiver
from tests.support.until import until

NETWORK = ClusterNetwork("127.0.0.1", b"the secret")


class Sized:
    """Answers with the number of bytes that it was sent."""

    def __init__(self) -> None:
        self.calls = 0

    def holdings(self) -> Holdings:
        return Holdings()

    async def respond(self, call: Call, on_chunk: OnChunk | None, on_news: OnNews) -> InferResponse:
        self.calls += 1
        assert isinstance(call.request, ImageClassification)
        return TextGenerationResult(generated_text=str(len(call.request.image_data)))


@pytest.fixture
async def server() -> AsyncIterator[ReplicaSocketServer]:
    server = ReplicaSocketServer(Sized(), None, NETWORK)
    yield server
    await server.close()


def address_of(server: ReplicaSocketServer) -> tuple[str, int]:
    assert server.address is not None
    return server.address


async def test_whoever_knows_the_secret_is_answered_also_large_calls(server: ReplicaSocketServer) -> None:
    connection = await connect(address_of(server), NETWORK.secret, Receiver())
    await until(lambda: connection.items)
    assert connection.items.pop() == Holdings()
    for size in (0, 10, 20_000_000):
        connection.write(Call(ImageClassification(model_id="m", image_data=bytes(size)), "r", 60, call_id=str(size)))
        await until(lambda: connection.items)
        assert connection.items.pop() == (str(size), TextGenerationResult(generated_text=str(size)))
    assert connection.transport is not None
    # A node that is cut off ends its connections within seconds, also while nothing is sent.
    options = connection.transport.get_extra_info("socket")
    assert options.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) <= 10_000
    assert options.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    connection.transport.close()


async def test_whoever_does_not_know_the_secret_is_disconnected(server: ReplicaSocketServer) -> None:
    with pytest.raises(ConnectionRefusedError, match="secret"):
        await connect(address_of(server), b"another", Receiver())
    assert not server.connections


async def rest_of(reader: asyncio.StreamReader) -> bytes:
    """What comes until the connection is ended, in good order or not."""
    received = bytearray()
    with suppress(ConnectionResetError):
        while more := await reader.read(1000):
            received += more
    return bytes(received)


class Exploit:
    opened = False

    def __reduce__(self) -> tuple[Any, ...]:
        return (setattr, (Exploit, "opened", True))


async def test_a_pickle_that_comes_without_a_proof_is_never_read(server: ReplicaSocketServer) -> None:
    payload = pickle.dumps([Exploit()])
    reader, writer = await asyncio.open_connection(*address_of(server))
    await reader.readexactly(32)
    writer.write(len(payload).to_bytes(4, "little") + payload + bytes(64))
    assert await rest_of(reader) == b""  # not even a proof of the server's own
    writer.close()
    assert not Exploit.opened


async def test_a_proof_that_was_overheard_is_worth_nothing(server: ReplicaSocketServer) -> None:
    sent = bytearray()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(*address_of(server))
        writer.write(await there.readexactly(32))
        sent.extend(await reader.readexactly(64))
        back.write(sent)
        writer.write(await there.readexactly(32))
        for end in (writer, back):
            end.close()

    async with await asyncio.start_server(pass_on, "127.0.0.1", 0) as between:
        await connect(between.sockets[0].getsockname(), NETWORK.secret, Receiver())
    reader, writer = await asyncio.open_connection(*address_of(server))
    writer.write(sent)
    assert len(await rest_of(reader)) == 32  # its nonce alone
    writer.close()


async def test_a_server_that_does_not_know_the_secret_gets_no_call() -> None:
    async def pretend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes(32))
        await reader.readexactly(64)
        writer.write(bytes(32))
        assert await rest_of(reader) == b""
        writer.close()

    async with await asyncio.start_server(pretend, "127.0.0.1", 0) as server:
        with pytest.raises(ConnectionRefusedError):
            await connect(server.sockets[0].getsockname(), NETWORK.secret, Receiver())


async def test_connections_that_prove_nothing_are_few_and_keep_nobody_out(
    server: ReplicaSocketServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshake, "MAX_UNPROVEN", 3)
    idle = [await asyncio.open_connection(*address_of(server)) for _ in range(5)]
    for reader, _ in idle:
        await reader.readexactly(32)
    assert [await rest_of(reader) for reader, _ in idle[:2]] == [b"", b""]
    connection = await connect(address_of(server), NETWORK.secret, Receiver())
    handshakes = server._handshakes
    assert handshakes is not None
    assert len(handshakes.unproven) <= 3
    assert len(server.connections) == 1
    for _, writer in idle:
        writer.close()
    await until(lambda: not handshakes.unproven)
    assert connection.transport is not None
    connection.transport.close()


async def test_a_connection_that_proves_nothing_in_time_is_ended(
    server: ReplicaSocketServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshake, "TIMEOUT_S", 0.01)
    reader, writer = await asyncio.open_connection(*address_of(server))
    assert len(await rest_of(reader)) == 32
    writer.close()
