"""Threads that libraries start: OpenMP's pool, mostly."""

import os
import threading

from tests.support.until import wait_until


def native_threads() -> set[int]:
    """The ids of this process's threads that Python has not started."""
    return {int(task) for task in os.listdir("/proc/self/task")} - {one.native_id for one in threading.enumerate()}


def wait_until_ended(but_for: set[int]) -> None:
    """Until no native thread is left but these."""
    wait_until(lambda: not native_threads() - but_for, "native threads end", timeout_s=10, every_s=0.005)
