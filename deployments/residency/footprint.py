"""The memory of a replica's process beside its models: measured, logged above a limit, and checked for leaks."""

import logging

from deployments.residency.ledger import MIB, Ledger
from deployments.system.process_memory import Memory

logger = logging.getLogger("model_runtime.residency")

STATED_OVERHEAD = 256 * MIB
"""A replica stays below its resting size + `required_mem_mb` + this: libraries imported with the first models, images
and prompts in progress, and what a load allocates for a moment. A text replica took 47 to 56 MiB at most
(`python -m benchmarks.residency overhead`); image replicas state 384 MiB."""


class Footprint:
    """`update` is called every second."""

    def __init__(self, memory: Memory, ledger: Ledger, stated_bytes: int) -> None:
        self.stated_bytes = stated_bytes
        self.memory = memory
        self.ledger = ledger
        self.resting_bytes = memory.held()
        self.leaked_bytes = 0
        self._least_overhead: int | None = None
        self._warned = False

    def measure_resting_size(self) -> None:
        """To be called while no model is loaded."""
        self.resting_bytes = self.memory.held()

    @property
    def overhead_bytes(self) -> int:
        return self.memory.held() - self.resting_bytes - self.ledger.used_bytes

    def update(self, unloads: int) -> None:
        """`unloads`: how many there were so far."""
        overhead = self.overhead_bytes
        if overhead > self.stated_bytes and not self._warned:
            self._warned = True
            logger.warning(
                "the process takes %d MiB beside its models, %d are usual", overhead / MIB, self.stated_bytes / MIB
            )
        # The overhead after the first unload is what libraries keep. Growth above the least value since then, while
        # no model is in use, is memory that unloads did not give back.
        if unloads and all(entry.idle for entry in list(self.ledger.entries.values())):
            self._least_overhead = overhead if self._least_overhead is None else min(self._least_overhead, overhead)
            self.leaked_bytes = overhead - self._least_overhead
