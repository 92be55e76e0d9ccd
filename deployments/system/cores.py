"""A process on its share of the node's cores."""

import os
import random
from pathlib import Path

TASKS = Path("/proc/self/task")


def limit_cores(share: float) -> int:
    """Confines this process to its share of the cores it may use, at least one. Returns how many.

    Threads that run already are confined too: Ray's would hand all cores on to those they start. Pools that are made
    later (OpenMP, tokenizers) take as many threads as there are cores left.
    """
    allowed = sorted(os.sched_getaffinity(0))
    cores = max(1, int(share * len(allowed)))
    if cores < len(allowed):
        # Any of them, so that replicas do not crowd on the first.
        chosen = random.sample(allowed, cores)
        for thread in [int(task.name) for task in TASKS.iterdir()] if TASKS.is_dir() else [0]:
            try:
                os.sched_setaffinity(thread, chosen)
            except ProcessLookupError:  # it has just ended
                continue
    return cores
