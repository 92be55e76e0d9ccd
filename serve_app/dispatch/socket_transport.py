"""Calls to one replica over its Unix socket: the ingress's side of the connection."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from deployments.replica.calls import Reply
from deployments.replica.socket_server import FramedConnection
from serve_app.dispatch.pending import Pending


class SocketTransport(FramedConnection):
    """To one replica. `broken` is told when the connection has ended: no answers will come to what is `pending`."""

    def __init__(self, broken: "Callable[[SocketTransport], None]") -> None:
        super().__init__()
        self.sent: dict[str, float] = {}
        """By model: when it was last asked for one that its replica may not tell of yet."""
        self.pending: dict[str, Pending] = {}
        self.open = True
        """Whether it takes new calls."""
        self._broken = broken

    def submit(self, pending: Pending) -> None:
        pending.submitted = pending.arrived = True
        self.pending[pending.call.call_id] = pending
        pending.response.add_done_callback(partial(self._ended, pending.call.call_id))
        self.write(pending.to_send())

    def received(self, item: tuple[str, Reply] | str) -> None:
        if isinstance(item, str):  # LEAVING
            self.open = False
            return
        call_id, reply = item
        pending = self.pending.get(call_id)
        if pending is not None:
            pending.hear(reply)

    def connection_lost(self, failure: Exception | None) -> None:
        self._broken(self)
        self.open = False
        self.pending = {}

    def _ended(self, call_id: str, response: "asyncio.Future[Any]") -> None:
        if self.pending.pop(call_id, None) is not None and response.cancelled():
            self.write(call_id)
