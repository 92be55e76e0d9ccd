"""What the processes of a runtime hold, by what they are: one that is killed comes again as another one."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import psutil

from benchmarks.http.soak import GROWS_DESCRIPTORS, GROWS_MIB, GROWS_THREADS, MIB, holdings

_TITLE = re.compile(r"ray::[\w:-]+")
"""How Ray names its workers; what they are doing may follow."""
_PASSING = {"ray::IDLE", "ended"}
"""Ray starts workers before there is anything for them, and ends them."""


@dataclass(frozen=True, slots=True)
class Held:
    """By all processes of one kind: how many they are, and the most that one of them holds."""

    processes: int
    memory: int
    descriptors: int
    threads: int


def held(processes: Iterable[psutil.Process]) -> dict[str, Held]:
    known = list(processes)
    by_id = holdings(known)
    kinds = defaultdict(list)
    for process in known:
        if (one := by_id.get(process.pid)) and (kind := _kind(process)) not in _PASSING:
            kinds[kind].append(one)
    return {
        kind: Held(
            len(ones),
            max(one.memory for one in ones),
            max(one.descriptors for one in ones),
            max(one.threads for one in ones),
        )
        for kind, ones in kinds.items()
    }


def grown(before: Mapping[str, Held], after: Mapping[str, Held]) -> list[str]:
    """What is gone, has more processes, or one that holds more than a process may come to hold without a leak."""
    told = [f"{kind} is gone" for kind in before.keys() - after.keys()]
    told += [f"{kind} is new" for kind in after.keys() - before.keys()]
    for kind in before.keys() & after.keys():
        old, new = before[kind], after[kind]
        more = {
            "processes": new.processes - old.processes,
            "MiB": (new.memory - old.memory) / MIB - GROWS_MIB,
            "descriptors": new.descriptors - old.descriptors - GROWS_DESCRIPTORS,
            "threads": new.threads - old.threads - GROWS_THREADS,
        }
        told += [f"{kind} grows in {what}" for what, beyond in more.items() if beyond > 0]
    return sorted(told)


def _kind(process: psutil.Process) -> str:
    try:
        title = _TITLE.match(" ".join(process.cmdline()[:1]))
        return title[0] if title else process.name()
    except psutil.Error:
        return "ended"
