"""Both ends of a TCP connection prove that they know the cluster's secret before either reads a frame: it is a pickle.

The server sends a nonce, the client a nonce and its proof, the server its proof. A proof is the HMAC-SHA256 of both
nonces and the end's own role, so the secret never travels and no proof can be used twice.
"""

import asyncio
import hmac
import logging
import secrets
import socket
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, cast

logger = logging.getLogger("model_runtime.dispatch")

TIMEOUT_S = 5.0
MAX_UNPROVEN = 64
"""Connections to one server that have not proven anything yet. One more ends the oldest of them."""
_NONCE = _PROOF = 32
_SILENT_FOR_S, _ASK_EVERY_S, _ASK_TIMES = 4, 2, 3

ProtocolT = TypeVar("ProtocolT", bound=asyncio.BufferedProtocol)


@dataclass(frozen=True, slots=True)
class ClusterNetwork:
    """`host` is this node's address in the cluster, `secret` what all its nodes know."""

    host: str
    secret: bytes


async def connect(address: tuple[str, int], secret: bytes, protocol: ProtocolT) -> ProtocolT:
    """`protocol`, connected to a server that has proven the secret. Raises OSError, TimeoutError."""
    loop = asyncio.get_running_loop()
    handshake = _ClientHandshake(secret, protocol)
    async with asyncio.timeout(TIMEOUT_S):
        transport, _ = await loop.create_connection(lambda: handshake, *address)
        try:
            await handshake.proven
        except BaseException:
            transport.abort()
            raise
    return protocol


class ServerHandshakes:
    """The server's side: `make_protocol` makes that of each connection whose client has proven the secret."""

    def __init__(self, secret: bytes, make_protocol: Callable[[], asyncio.BufferedProtocol]) -> None:
        self.secret = secret
        self.make_protocol = make_protocol
        self.unproven: dict[_ServerHandshake, None] = {}  # in the order in which they came
        self._refused = False

    def __call__(self) -> asyncio.BufferedProtocol:
        return _ServerHandshake(self)

    def begin(self, handshake: "_ServerHandshake") -> None:
        self.unproven[handshake] = None
        if len(self.unproven) > MAX_UNPROVEN:
            next(iter(self.unproven)).end()

    def refuse(self, peer: object) -> None:
        if not self._refused:
            self._refused = True
            logger.warning("a connection from %s does not know the cluster's secret; others are refused silently", peer)

    def close(self) -> None:
        for handshake in list(self.unproven):
            handshake.end()


class _Handshake(asyncio.BufferedProtocol):
    """Receives messages of known lengths and never a byte more: what follows is the next protocol's."""

    def __init__(self, secret: bytes, size: int) -> None:
        self.transport: asyncio.Transport | None = None
        self.nonce = secrets.token_bytes(_NONCE)
        self._secret = secret
        self._expect(size)

    def _expect(self, size: int) -> None:
        self._incoming, self._filled = bytearray(size), 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's does not derive from asyncio.Transport
        _watch(transport.get_extra_info("socket"))

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self._incoming)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        if self._filled == len(self._incoming):
            self.received(bytes(self._incoming))

    @abstractmethod
    def received(self, message: bytes) -> None: ...

    def _proof(self, role: bytes, server: bytes, client: bytes) -> bytes:
        return hmac.digest(self._secret, role + server + client, "sha256")

    def _hand_over(self, protocol: asyncio.BufferedProtocol) -> None:
        assert self.transport is not None
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)


class _ServerHandshake(_Handshake):
    def __init__(self, server: ServerHandshakes) -> None:
        super().__init__(server.secret, _NONCE + _PROOF)
        self._server = server
        self._timer = asyncio.get_running_loop().call_later(TIMEOUT_S, self.end)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._server.begin(self)
        assert self.transport is not None
        self.transport.write(self.nonce)

    def received(self, message: bytes) -> None:
        assert self.transport is not None
        nonce, proof = message[:_NONCE], message[_NONCE:]
        if not hmac.compare_digest(proof, self._proof(b"client", self.nonce, nonce)):
            self._server.refuse(self.transport.get_extra_info("peername"))
            self.end()
            return
        self._left()
        self.transport.write(self._proof(b"server", self.nonce, nonce))
        self._hand_over(self._server.make_protocol())

    def connection_lost(self, failure: Exception | None) -> None:
        self._left()

    def end(self) -> None:
        self._left()
        if self.transport is not None:
            self.transport.abort()

    def _left(self) -> None:
        self._timer.cancel()
        self._server.unproven.pop(self, None)


class _ClientHandshake(_Handshake):
    def __init__(self, secret: bytes, protocol: asyncio.BufferedProtocol) -> None:
        super().__init__(secret, _NONCE)
        self.proven: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._protocol = protocol
        self._servers = b""

    def received(self, message: bytes) -> None:
        assert self.transport is not None
        if not self._servers:
            self._servers = message
            self._expect(_PROOF)
            self.transport.write(self.nonce + self._proof(b"client", message, self.nonce))
        elif hmac.compare_digest(message, self._proof(b"server", self._servers, self.nonce)):
            if not self.proven.done():  # else nobody waits any more
                self._hand_over(self._protocol)
                self.proven.set_result(None)
        else:
            self.transport.abort()

    def connection_lost(self, failure: Exception | None) -> None:
        if not self.proven.done():
            self.proven.set_exception(ConnectionRefusedError("the other end does not know the cluster's secret"))


def _watch(connection: socket.socket) -> None:
    """A node that vanishes without a word ends the connection within about ten seconds."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    silent_ms = (_SILENT_FOR_S + _ASK_EVERY_S * _ASK_TIMES) * 1000
    for option, value in (
        (socket.TCP_KEEPIDLE, _SILENT_FOR_S),
        (socket.TCP_KEEPINTVL, _ASK_EVERY_S),
        (socket.TCP_KEEPCNT, _ASK_TIMES),
        (socket.TCP_USER_TIMEOUT, silent_ms),
    ):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
