"""The ingress's ends of the direct lines to a family's replicas, and which replica a call goes to.

Serve says which replicas there are; a replica whose socket lies on this machine gets a line. Where one lies elsewhere,
or none has a line yet, calls take the handle (`serve_app.dispatch.handle_transport`) instead.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from deployments.replica.launcher_profile import LauncherProfile
from serve_app.dispatch.pending import Pending
from serve_app.dispatch.socket_transport import SocketTransport

logger = logging.getLogger("model_runtime.dispatch")

SENT_LATELY_S = 10.0
"""What a replica was sent so lately it may not tell of yet."""

Lost = Callable[[Sequence[Pending]], None]


class ReplicaPool:
    """A family's lines. `replicas` gives Serve's table of its replicas, a new one whenever it changes.

    A model goes to a replica that has it, as long as that one has fewer than `enough` calls under way.
    """

    def __init__(
        self, replicas: Callable[[], Mapping[Any, object]], profile: LauncherProfile | None, enough: float, lost: Lost
    ) -> None:
        self._replicas = replicas
        self._profile = profile
        self._enough = enough
        self._lost = lost
        self._seen: Mapping[Any, object] | None = None
        self._lines: dict[str, SocketTransport | None] = {}  # None: being connected, or not to be reached
        self._ids: dict[SocketTransport, Any] = {}  # Serve's, as in its table
        self._all_here = False
        self._connecting: set[asyncio.Task[None]] = set()

    def choose(self, model: str) -> SocketTransport | None:
        """The line to take; None where the handle has to do."""
        replicas = self._replicas()
        if replicas is not self._seen:
            self._seen = replicas
            self._meet({replica.unique_id: replica for replica in replicas})
        if not self._all_here:
            return None
        lines = [line for line in self._lines.values() if line is not None and line.open]
        if not lines:
            return None
        chosen = lines[0] if len(lines) == 1 else self._best(lines, model)
        if model and len(self._lines) > 1:
            chosen.sent[model] = time.monotonic()
        return chosen

    def _best(self, lines: list[SocketTransport], model: str) -> SocketTransport:
        """Who holds the model; where all those are busy, who has most room for it; else who has least to do."""
        free = [line for line in lines if len(line.pending) < self._enough]
        holders = [line for line in free if self._holds(line, model)]
        if holders:
            return min(holders, key=_under_way)
        return max(free, key=self._room) if free and model else min(lines, key=_under_way)

    def _stats(self, line: SocketTransport) -> Mapping[str, Any]:
        return getattr((self._seen or {}).get(self._ids[line]), "routing_stats", None) or {}

    def _holds(self, line: SocketTransport, model: str) -> bool:
        lately = time.monotonic() - line.sent.get(model, -SENT_LATELY_S) < SENT_LATELY_S
        return lately or model in self._stats(line).get("models", ())

    def _room(self, line: SocketTransport) -> float:
        """The share of its memory that is free, less a tenth for each model on its way there."""
        stats, now = self._stats(line), time.monotonic()
        held = stats.get("models", ())
        coming = sum(now - at < SENT_LATELY_S for model, at in line.sent.items() if model not in held)
        return float(stats.get("free", 1.0)) - coming / 10

    def _meet(self, ids: Mapping[str, Any]) -> None:
        for gone in self._lines.keys() - ids.keys():
            line = self._lines.pop(gone)
            if line is not None:
                line.open = False
                del self._ids[line]
                if not line.pending and line.transport is not None:
                    line.transport.close()
        profile = self._profile
        here = {replica_id for replica_id in ids if profile and profile.socket(replica_id).is_socket()}
        self._all_here = here == ids.keys()
        for new in here - self._lines.keys():
            self._connect(ids[new])

    def _connect(self, key: Any) -> None:
        self._lines[key.unique_id] = None
        task = asyncio.create_task(self._connected(key))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connected(self, key: Any) -> None:
        assert self._profile is not None
        path = str(self._profile.socket(key.unique_id))
        try:
            _, line = await asyncio.get_running_loop().create_unix_connection(
                lambda: SocketTransport(self._broken), path
            )
        except OSError as failure:  # it died, and Serve does not know yet
            logger.warning("no line to replica %s: %s", key.unique_id, failure)
            return
        if key.unique_id in self._lines:
            self._lines[key.unique_id] = line
            self._ids[line] = key
        elif line.transport is not None:
            line.transport.close()

    def _broken(self, line: SocketTransport) -> None:
        key = self._ids.pop(line, None)
        if key is not None:
            self._lines[key.unique_id] = None
            if line.open:  # It did not say that it leaves: perhaps only the connection is lost.
                self._connect(key)
        self._lost(list(line.pending.values()))


def _under_way(line: SocketTransport) -> int:
    return len(line.pending)
