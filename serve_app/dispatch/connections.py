"""The direct connections to the replicas of one family, on this machine and on other nodes."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Set

from ray.serve.request_router import ReplicaID, RunningReplica

from deployments.replica.calls import Holdings
from deployments.replica.connection import IngressConnection
from deployments.replica.handshake import TIMEOUT_S, ClusterNetwork, connect
from deployments.replica.launcher_profile import LauncherProfile
from deployments.system.crash_report import crash_report
from serve_app.dispatch.placement import ReplicaMemory

logger = logging.getLogger("ray.serve")  # Whose lines Ray keeps.

RETRY_S = 5.0
Address = str | tuple[str, int]
"""A Unix socket's path, or a host and a port."""


class SocketTransport(IngressConnection):
    """A connection to one replica, with what was sent for the replica's models."""

    def __init__(self, replica: ReplicaID, lost: Callable[[IngressConnection], str]) -> None:
        super().__init__(replica.unique_id, lost)
        self.memory = ReplicaMemory()

    @property
    def models_in_use(self) -> Set[str]:
        return {pending.call.model.name for pending in self.pending.values() if pending.call.model}

    def update_holdings(self, holdings: Holdings) -> None:
        self.memory.update(holdings)


class Connections:
    """`profile` names the Unix sockets of this machine; `network` has the secret for other nodes."""

    def __init__(self, profile: LauncherProfile | None, network: ClusterNetwork | None) -> None:
        self._profile = profile
        self._network = network
        self.sockets: dict[str, SocketTransport | None] = {}
        """By replica; None while one is being connected."""
        self._connecting: dict[str, asyncio.Task[None]] = {}
        self.unreachable: set[str] = set()
        """Replicas to which no connection could be made so far."""

    def update(self, replicas: Mapping[ReplicaID, RunningReplica]) -> None:
        """These are the replicas now. Needs a running event loop."""
        names = {replica.unique_id for replica in replicas}
        for ended in self.sockets.keys() - names:
            socket = self.sockets.pop(ended)
            if (connecting := self._connecting.get(ended)) is not None:
                connecting.cancel()
            if socket is not None:
                socket.open = False
                if not socket.pending and socket.transport is not None:
                    socket.transport.close()
        self.unreachable &= names
        for replica, running in replicas.items():
            if replica.unique_id not in self.sockets and (address := self._address(replica, running)) is not None:
                self._connect(replica, address)

    def _address(self, replica: ReplicaID, running: RunningReplica) -> Address | None:
        path = self._profile.socket(replica.unique_id) if self._profile else None
        if path is not None and path.is_socket():
            return str(path)
        address: Address | None = (running.routing_stats or {}).get("address") if self._network else None
        return address

    def _connect(self, replica: ReplicaID, address: Address) -> None:
        name = replica.unique_id
        self.sockets[name] = None
        task = self._connecting[name] = asyncio.get_running_loop().create_task(self._connected(replica, address))
        task.add_done_callback(lambda _: self._connecting.pop(name, None))

    async def _connected(self, replica: ReplicaID, address: Address) -> None:
        """Tries until there is a connection; is cancelled when Serve no longer lists the replica."""
        name = replica.unique_id
        while True:
            socket = SocketTransport(replica, lambda lost: self._lost(lost, replica, address))
            try:
                await self._reach(address, socket)
            except OSError as failure:  # It ended, and Serve does not know yet; or nothing leads there.
                if name not in self.unreachable:
                    self.unreachable.add(name)
                    reason = failure or type(failure).__name__
                    logger.warning("replica %s cannot be reached directly (%s): Serve's handle is used", name, reason)
                await asyncio.sleep(RETRY_S)
                continue
            self.sockets[name] = socket
            self.unreachable.discard(name)
            logger.info("replica %s is reached directly at %s", name, address)
            return

    async def _reach(self, address: Address, socket: SocketTransport) -> None:
        """Raises OSError, of which TimeoutError is one."""
        if isinstance(address, str):
            async with asyncio.timeout(TIMEOUT_S):
                await asyncio.get_running_loop().create_unix_connection(lambda: socket, address)
        else:
            assert self._network is not None
            await connect(address, self._network.secret, socket)

    def _lost(self, socket: IngressConnection, replica: ReplicaID, address: Address) -> str:
        """Connects again. What the replica reported of a crash, if it lies on this machine."""
        crash = crash_report(self._profile.crash_file(socket.replica)) if self._profile else ""
        if crash:
            logger.warning("replica %s crashed with %d calls under way: %s", socket.replica, socket.under_way, crash)
        if self.sockets.get(socket.replica) is socket:
            self.sockets[socket.replica] = None
            if socket.open:  # It did not announce its end: perhaps only the connection is lost.
                self._connect(replica, address)
        return crash
