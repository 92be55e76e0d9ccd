"""What a replica's process takes beside its models: watched, so that it stays what was measured once."""

import logging

from deployments.residency.ledger import MIB, Ledger
from deployments.system.process_memory import Memory

logger = logging.getLogger("model_runtime.residency")

STATED_OVERHEAD = 256 * MIB
"""A replica stays under its resting size + `required_mem_mb` + this: libraries imported with the first models, pictures
and prompts under way, what a load takes for a moment. Measured: docs/residency.md."""


class Footprint:
    """Looked at every second."""

    def __init__(self, memory: Memory, ledger: Ledger, stated_bytes: int) -> None:
        self.stated_bytes = stated_bytes
        self.memory = memory
        self.ledger = ledger
        self.resting_bytes = 0
        self.leaked_bytes = 0
        self._first: int | None = None
        self._warned = False
        self.rest()

    def rest(self) -> None:
        """No model is there yet: what is held now is what the process takes in any case."""
        self.resting_bytes = self.memory.held()

    @property
    def overhead_bytes(self) -> int:
        return self.memory.held() - self.resting_bytes - self.ledger.used_bytes

    def look(self, unloads: int) -> None:
        """`unloads`: how many there were so far."""
        overhead = self.overhead_bytes
        if overhead > self.stated_bytes and not self._warned:
            self._warned = True
            logger.warning(
                "the process takes %d MiB beside its models, %d are usual", overhead / MIB, self.stated_bytes / MIB
            )
        entries = list(self.ledger.entries.values())
        if unloads and all(entry.idle for entry in entries):
            # After the first unload it is what libraries keep; what comes on top since was not given back.
            self._first = overhead if self._first is None else min(self._first, overhead)
            self.leaked_bytes = overhead - self._first
