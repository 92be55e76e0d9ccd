"""Where a replica listens for ingresses: a Unix socket for those of its machine, TCP for those of other nodes.

TCP carries calls once both ends have proven the cluster's secret (`handshake`).
"""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

from deployments.replica.calls import Holdings
from deployments.replica.connection import ReplicaConnection, Responder
from deployments.replica.handshake import ClusterNetwork, ServerHandshakes

BACKLOG = 128


class ReplicaSocketServer:
    """A replica's side: answers the calls of every connection until `close`.

    It listens on the Unix socket `path`, and at a port of the node for those that know the cluster's secret.
    """

    def __init__(self, replica: Responder, path: Path | None, network: ClusterNetwork | None = None) -> None:
        self._replica = replica
        self.connections: set[ReplicaConnection] = set()
        self.address: tuple[str, int] | None = None
        """Where other nodes reach it."""
        self._path = path
        self._handshakes = ServerHandshakes(network.secret, self._connection) if network else None
        self._listeners: list[tuple[socket.socket, Callable[[], asyncio.BaseProtocol]]] = []
        if path is not None:
            self._listeners.append((_unix_listener(path), self._connection))
        if network is not None and self._handshakes is not None:
            listener = _tcp_listener(network.host)
            self.address = (network.host, listener.getsockname()[1])
            self._listeners.append((listener, self._handshakes))
        self._reported: Holdings | None = None
        self._starting = asyncio.get_running_loop().create_task(self._start())

    def _connection(self) -> ReplicaConnection:
        return ReplicaConnection(self._replica, self.connections)

    async def _start(self) -> list[asyncio.Server]:
        loop = asyncio.get_running_loop()
        servers = []
        for listener, protocol in self._listeners:
            make = loop.create_unix_server if listener.family == socket.AF_UNIX else loop.create_server
            servers.append(await make(protocol, sock=listener))
        return servers

    def report_holdings(self) -> None:
        """Tells every ingress what the replica holds, if that has changed."""
        if (holdings := self._replica.holdings()) != self._reported:
            self._reported = holdings
            for connection in self.connections:
                connection.write(holdings)

    async def close(self) -> None:
        """Takes no new calls; ends once those under way are answered."""
        for server in await self._starting:
            server.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        if self._handshakes is not None:
            self._handshakes.close()
        await asyncio.gather(*(connection.leave() for connection in list(self.connections)))


def _unix_listener(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    path.chmod(0o600)
    listener.listen(BACKLOG)
    return listener


def _tcp_listener(host: str) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.bind((host, 0))
    listener.listen(BACKLOG)
    return listener
