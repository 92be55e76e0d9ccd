"""The replicas of one family: which there are, the transports to them, and which one a call takes.

Serve knows which replicas there are, and each gets a connection, on this machine or another. Calls take Serve's handle
while none is connected, and where a replica cannot be reached directly and the others have enough to do.
"""

import time
from collections.abc import Callable
from typing import Any

from ray.serve.handle import DeploymentHandle

from deployments.replica.handshake import ClusterNetwork
from deployments.replica.launcher_profile import LauncherProfile
from serve_app.dispatch.connections import Connections, SocketTransport
from serve_app.dispatch.handle_transport import HandleTransport
from serve_app.dispatch.pending import Transport
from serve_app.dispatch.placement import Placement
from serve_app.dispatch.serve_internals import Replicas, replicas_of

MANY_TRANSPORTS = 256
"""From so many handle transports on, the idle ones are deleted before another is made."""


class ReplicaPool:
    """`handle` is the family's deployment; `profile` and `network` say how its replicas are reached past Serve.

    Which replica a call takes is Placement's choice; one with `target_ongoing` calls under way is busy.
    """

    def __init__(
        self,
        handle: DeploymentHandle[Any],
        target_ongoing: float,
        profile: LauncherProfile | None = None,
        network: ClusterNetwork | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._handle = handle
        self._placement = Placement(target_ongoing)
        self._clock = clock
        self._connections = Connections(profile, network)
        self._replicas: Replicas = {}
        self._handle_transports: dict[str, HandleTransport] = {}  # by model

    def use(self, target_ongoing: float) -> None:
        """From so many calls under way on, a replica is busy from now on."""
        self._placement.target_ongoing = target_ongoing

    def count(self) -> int:
        return len(self._current())

    def pick(self, model: str) -> Transport:
        """The transport of the next call for a model, "" where the family has none."""
        replicas = self._current()
        sockets = self._open()
        # While Serve hands a replica new settings it does not list it. One that ends announces it itself.
        if replicas is not self._replicas and (replicas or not sockets):
            self._replicas = replicas
            self._connections.update(replicas)
            sockets = self._open()
        if not sockets:
            return self.by_handle(model)
        picked = sockets[0] if len(sockets) == 1 else self._best(sockets, model)
        if self._connections.unreachable and picked.under_way >= self._placement.target_ongoing:
            return self.by_handle(model)
        return picked

    def pick_again(self, model: str) -> Transport:
        """The transport of a call whose replica was lost: another replica's, else the handle, which waits for one.

        Serve may take a minute to notice that a node is cut off; its handle would send calls there.
        """
        others = [socket for socket in self._open() if socket.transport and not socket.transport.is_closing()]
        return self._best(others, model) if others else self.by_handle(model)

    def by_handle(self, model: str) -> HandleTransport:
        transport = self._handle_transports.get(model)
        if transport is None:
            if len(self._handle_transports) >= MANY_TRANSPORTS:
                used = {name: other for name, other in self._handle_transports.items() if not other.idle}
                self._handle_transports = used
            transport = self._handle_transports[model] = HandleTransport(self._handle)
        return transport

    def _open(self) -> list[SocketTransport]:
        """The connections that take calls."""
        return [socket for socket in self._connections.sockets.values() if socket is not None and socket.open]

    def _current(self) -> Replicas:
        try:
            return replicas_of(self._handle)
        except AttributeError:  # The handle connects with its first call.
            return _NONE

    def _best(self, sockets: list[SocketTransport], model: str) -> SocketTransport:
        return sockets[self._placement.best(model, sockets, self._clock())]


_NONE: Replicas = {}
