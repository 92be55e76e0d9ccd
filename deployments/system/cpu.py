"""The CPU of this process: which cores it may use, and which model used how many seconds of it."""

import os
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SELDOM_WOKEN = {"RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.4", "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "1000"}
"""Of Serve's environment: otherwise its controller polls ten times a second, which takes 4 % of a core, and so does
each replica and each handle, to give Ray its counts, which Ray's agent sends every ten seconds."""
TASKS = Path("/proc/self/task")
CGROUP = Path("/sys/fs/cgroup")


def machine_cpus(cgroup: Path = CGROUP) -> int:
    """The CPUs of this machine, or of its container, as Ray counts them unless told: whole ones, at least one."""
    cpus = os.cpu_count() or 1
    for quota_file, period_file in (("cpu.max", None), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            words = (cgroup / quota_file).read_text("utf-8").split()
            if period_file is not None:
                words += (cgroup / period_file).read_text("utf-8").split()
            quota, period = int(words[0]), int(words[1])
        except (OSError, ValueError, IndexError):  # `max`, or another kind of cgroup
            continue
        if quota > 0:
            return max(1, min(cpus, quota // period))
    return cpus


def limit_cores(share: float) -> int:
    """Confines this process to its share of the cores it may use, at least one. Returns how many.

    Running threads are confined too: threads that they start would otherwise inherit all cores. Pools that are made
    later (OpenMP, tokenizers) have as many threads as there are cores left.
    """
    allowed = sorted(os.sched_getaffinity(0))
    cores = max(1, int(share * len(allowed)))
    if cores < len(allowed):
        # Any of them, so that the replicas of a node do not share the first ones.
        chosen = random.sample(allowed, cores)
        _every_thread(lambda thread: os.sched_setaffinity(thread, chosen))
    return cores


@contextmanager
def starting_observers() -> Iterator[None]:
    """Processes that are started meanwhile, and theirs, have Linux' policy SCHED_BATCH: one that wakes up does not
    interrupt what computes, it waits for a turn. A step of a model on all cores waits for each core that is taken away.
    """
    before = os.sched_getscheduler(0)
    with suppress(PermissionError):  # some containers
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        yield
    finally:
        with suppress(PermissionError):
            os.sched_setscheduler(0, before, os.sched_param(0))


def answer_at_once() -> None:
    """For a process of requests below one that `starting_observers` started: all its threads have the usual policy."""
    if os.sched_getscheduler(0) == os.SCHED_BATCH:
        _every_thread(lambda thread: os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0)))


def _every_thread(change: Callable[[int], None]) -> None:
    for thread in [int(task.name) for task in TASKS.iterdir()] if TASKS.is_dir() else [0]:
        with suppress(ProcessLookupError):  # it has just ended
            change(thread)


class CpuMeter:
    """Splits the process's CPU seconds among the models whose work is under way. For any thread.

    While one model works, it gets all that the process uses, its thread pools and the event loop included. While
    several work, each gets a part in proportion to its pieces of work. Exact figures would need the owner of each
    thread of each pool, which neither OpenMP nor OpenVINO shows.
    """

    def __init__(self, clock: Callable[[], float] = time.process_time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._used: defaultdict[str, float] = defaultdict(float)
        self._under_way: dict[tuple[str | None, bool], int] = {}
        self._until = clock()

    @contextmanager
    def working(self, model: str | None, one_thread: bool = False) -> Iterator[None]:
        """One piece of work of the model; of none, where it is no model's request. Also decorates a function.

        `one_thread`: any number of pieces count as one, since one thread does them all.
        """
        self._change((model, one_thread), 1)
        try:
            yield
        finally:
            self._change((model, one_thread), -1)

    def sample(self) -> dict[str, float]:
        """CPU seconds of each model so far."""
        with self._lock:
            self._split()
            return dict(self._used)

    def _change(self, work: tuple[str | None, bool], by: int) -> None:
        with self._lock:
            self._split()
            count = self._under_way.get(work, 0) + by
            if count:
                self._under_way[work] = count
            else:
                del self._under_way[work]

    def _split(self) -> None:
        since, self._until = self._until, self._clock()
        parts = {work: 1 if work[1] else count for work, count in self._under_way.items()}
        used_s = (self._until - since) / sum(parts.values()) if parts else 0.0  # By each part.
        for (model, _), part in parts.items():
            if model is not None:
                self._used[model] += used_s * part
