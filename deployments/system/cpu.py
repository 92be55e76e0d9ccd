"""CPU seconds by model, measured thread by thread, never guessed from how long something took.

On Linux a thread gets its name from the thread that starts it. The thread that loads a model is given a name of the
model's own, so the threads that its engine starts, and the teams that those start in turn, can be told by it: what they
use is the model's. Threads that models share run one piece of work at a time: what the thread and its team used
meanwhile is that model's. The event loop and the tokenising of prompts belong to no model.
"""

import ctypes
import itertools
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

from deployments.metrics.samples import Measure

TASKS = Path("/proc/self/task")
PR_SET_NAME = 15

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_numbers = itertools.count()


def name_thread(prefix: str = "cpu-") -> str:
    """Gives this thread, and those it will start, a name of their own."""
    name = f"{prefix}{next(_numbers)}"[:15]
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(PR_SET_NAME, name.encode(), 0, 0, 0)
    return name


def named_threads(*names: str) -> Iterator[tuple[str, int, float]]:
    """Name, id and CPU seconds of the threads of this process that have one of these names; none where that cannot be
    known.

    Done several times a second: with pathlib it would take several times as long.
    """
    for thread in os.listdir(TASKS) if TASKS.is_dir() else ():
        try:
            name = _read(thread, "comm").decode().rstrip()
            if name in names:
                yield name, int(thread), _seconds(thread)
        except (OSError, ValueError, IndexError):  # it has just ended
            continue


def _seconds(thread: int | str) -> float:
    return int(_read(thread, "schedstat").split()[0]) / 1e9


def _read(thread: int | str, what: str) -> bytes:
    with open(f"{TASKS}/{thread}/{what}", "rb", buffering=0) as file:
        return file.read()


def cpu_seconds(seconds: float) -> Measure:
    return Measure("model_cpu_seconds_total", "counter", "CPU seconds that a model's requests used.", (seconds,))


class CpuMeter:
    """What each model used so far, by its name. For any thread."""

    def __init__(self) -> None:
        self._spent: defaultdict[str, float] = defaultdict(float)
        self._models: dict[str, str] = {}  # by the name of their threads
        self._seen: dict[int, float] = {}
        self._teams = threading.local()
        self._lock = threading.Lock()

    @contextmanager
    def threads_of(self, model: str) -> Iterator[None]:
        """Threads that are started within, by this thread, are the model's own. This thread should end soon."""
        own = name_thread()
        yield
        with self._lock:
            # Its old and its new content may be there at once, no third.
            for earlier in [name for name, other in self._models.items() if other == model][:-1]:
                del self._models[earlier]
            self._models[own] = model
            # From now on: what the load itself used is not a request's.
            self._seen |= {thread: seconds for _, thread, seconds in named_threads(own)}

    def measured(self, model: str, work: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        """`work`, to be done in a thread that models share."""

        def measuring(*arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
            self.lead_team()
            before = self._team_seconds()
            try:
                return work(*arguments, **options)
            finally:
                used = self._team_seconds() - before
                with self._lock:
                    self._spent[model] += max(0.0, used)

        return measuring

    def lead_team(self) -> None:
        """Threads that this one starts from now on work for it."""
        if not hasattr(self._teams, "name"):
            self._teams.name = name_thread()

    def sample(self) -> dict[str, float]:
        """CPU seconds of every model so far. To be called often enough that threads do not end in between."""
        with self._lock:
            threads = {}
            for name, thread, seconds in named_threads(*self._models):
                self._spent[self._models[name]] += max(0.0, seconds - self._seen.get(thread, 0.0))
                threads[thread] = seconds
            self._seen = threads
            return dict(self._spent)

    def _team_seconds(self) -> float:
        """Of this thread and those that it started; those change seldom, so they are looked for now and then."""
        now = time.monotonic()
        if now - getattr(self._teams, "looked", -1.0) > 1.0:
            own = threading.get_native_id()
            self._teams.members = [thread for _, thread, _ in named_threads(self._teams.name) if thread != own]
            self._teams.looked = now
        seconds = time.thread_time()
        for member in self._teams.members:
            try:
                seconds += _seconds(member)
            except (OSError, ValueError, IndexError):
                self._teams.looked = -1.0
        return seconds
