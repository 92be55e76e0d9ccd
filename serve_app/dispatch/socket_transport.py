"""Calls to one replica over a direct connection: the ingress's end of the connection."""

from collections.abc import Callable

from ray.serve.request_router import ReplicaID

from deployments.contract.types import InferResponse
from deployments.replica.calls import Reply
from deployments.replica.socket_server import FramedConnection
from serve_app.dispatch.pending import Pending, ReplicaLost
from serve_app.dispatch.placement import ReplicaMemory


class SocketTransport(FramedConnection):
    """To one replica. `lost` is called when the connection has ended."""

    def __init__(self, replica: ReplicaID, lost: "Callable[[SocketTransport], None]") -> None:
        super().__init__()
        self.replica = replica
        self.open = True
        """Whether the replica takes new calls."""
        self.pending: dict[str, Pending] = {}
        self.memory = ReplicaMemory()
        self._lost = lost

    @property
    def under_way(self) -> int:
        return len(self.pending)

    async def send(self, pending: Pending) -> InferResponse:
        call_id = pending.call.call_id
        pending.arrived = True
        pending.replica = self.replica.unique_id
        self.pending[call_id] = pending
        self.write(pending.call)
        try:
            return await pending.response
        finally:
            if self.pending.pop(call_id, None) is not None:  # No response came, and the connection is there.
                self.write(call_id)

    def received(self, item: tuple[str, Reply] | str) -> None:
        if isinstance(item, str):  # LEAVING
            self.open = False
            return
        call_id, reply = item
        ended = isinstance(reply, InferResponse)
        pending = self.pending.pop(call_id, None) if ended else self.pending.get(call_id)
        if pending is not None:
            pending.deliver(reply)

    def connection_lost(self, failure: Exception | None) -> None:
        self._lost(self)
        self.open = False
        pendings, self.pending = self.pending, {}
        for pending in pendings.values():
            pending.fail(ReplicaLost())
