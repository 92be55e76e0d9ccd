"""The replicas of one family: which there are, the transports to them, and which one a call takes.

Serve knows which replicas there are, and each gets a connection, on this machine or another. Calls take Serve's handle
while none is connected, and where a replica cannot be reached directly and the others have enough to do.
"""

import time
from collections.abc import Mapping
from typing import Any

from ray.serve.handle import DeploymentHandle

from deployments.replica.handshake import ClusterNetwork
from deployments.replica.launcher_profile import LauncherProfile
from serve_app.dispatch.connections import Connections
from serve_app.dispatch.handle_transport import HandleTransport
from serve_app.dispatch.pending import Transport
from serve_app.dispatch.serve_internals import Replicas, replicas_of
from serve_app.dispatch.socket_transport import SocketTransport

SENT_LATELY_S = 10.0
"""So long after a call the replica's statistics may not show its model yet."""
MANY_TRANSPORTS = 256
"""From so many handle transports on, the idle ones are deleted before another is made."""


class ReplicaPool:
    """`handle` is the family's deployment; `profile` and `network` say how its replicas are reached past Serve.

    Calls for a model go to a replica that holds it, while that one has fewer than `target_ongoing` under way.
    """

    def __init__(
        self,
        handle: DeploymentHandle[Any],
        target_ongoing: float,
        profile: LauncherProfile | None = None,
        network: ClusterNetwork | None = None,
    ) -> None:
        self._handle = handle
        self._target_ongoing = target_ongoing
        self._connections = Connections(profile, network)
        self._replicas: Replicas = {}
        self._handle_transports: dict[str, HandleTransport] = {}  # by model

    def count(self) -> int:
        return len(self._current())

    def pick(self, model: str) -> Transport:
        """The transport of the next call for a model, "" where the family has none."""
        replicas = self._current()
        if replicas is not self._replicas:
            self._replicas = replicas
            self._connections.update(replicas)
        sockets = self._connections.open()
        if not sockets:
            return self.by_handle(model)
        picked = sockets[0] if len(sockets) == 1 else self._best(sockets, model)
        if self._connections.unreachable and len(picked.pending) >= self._target_ongoing:
            return self.by_handle(model)
        if model and len(self._replicas) > 1:
            picked.sent_at[model] = time.monotonic()
        return picked

    def by_handle(self, model: str) -> HandleTransport:
        transport = self._handle_transports.get(model)
        if transport is None:
            if len(self._handle_transports) >= MANY_TRANSPORTS:
                used = {name: other for name, other in self._handle_transports.items() if not other.idle}
                self._handle_transports = used
            transport = self._handle_transports[model] = HandleTransport(self._handle)
        return transport

    def _current(self) -> Replicas:
        try:
            return replicas_of(self._handle)
        except AttributeError:  # The handle connects with its first call.
            return _NONE

    def _best(self, sockets: list[SocketTransport], model: str) -> SocketTransport:
        """A replica that holds the model; where all of them are busy, the one with most free memory; else the one with
        the fewest calls under way."""
        free = [socket for socket in sockets if len(socket.pending) < self._target_ongoing]
        holders = [socket for socket in free if self._holds(socket, model)]
        if holders:
            return min(holders, key=_under_way)
        return max(free, key=self._free_share) if free and model else min(sockets, key=_under_way)

    def _stats(self, socket: SocketTransport) -> Mapping[str, Any]:
        replica = self._replicas.get(socket.replica)
        return replica.routing_stats or {} if replica else {}

    def _holds(self, socket: SocketTransport, model: str) -> bool:
        lately = time.monotonic() - socket.sent_at.get(model, -SENT_LATELY_S) < SENT_LATELY_S
        return lately or model in self._stats(socket).get("models", ())

    def _free_share(self, socket: SocketTransport) -> float:
        """The share of its memory that is free, less a tenth for each model that its statistics do not show yet."""
        stats, now = self._stats(socket), time.monotonic()
        held = stats.get("models", ())
        coming = sum(now - at < SENT_LATELY_S for model, at in socket.sent_at.items() if model not in held)
        return float(stats.get("free", 1.0)) - coming / 10


_NONE: Replicas = {}


def _under_way(socket: SocketTransport) -> int:
    return len(socket.pending)
