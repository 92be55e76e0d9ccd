"""A process that leaks is found, whichever of the three it leaks; one that is replaced is none."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import psutil
import pytest

from tests.faults.held import Held, grown, held

LEAKS = """
import os, sys, threading
inherited = bytearray(b"x" * (16 << 20))
if child := os.fork():
    print(child, flush=True)
    os.waitpid(child, 0)
    sys.exit()
kept, ended = [], threading.Event()
for line in sys.stdin:
    if "copies" in line:
        inherited[:] = b"y" * len(inherited)
    if "memory" in line:
        kept.append(bytearray(b"x" * (16 << 20)))
    if "descriptors" in line:
        kept += [open("/dev/null") for _ in range(16)]
    if "threads" in line:
        for _ in range(8):
            threading.Thread(target=ended.wait, daemon=True).start()
    print("done", flush=True)
"""


@dataclass(frozen=True, slots=True)
class Leaking:
    parent: subprocess.Popen[str]
    pid: int
    """Of its child, which is the one that leaks."""

    def told(self, what: str) -> dict[str, Held]:
        """What it holds afterwards."""
        assert self.parent.stdin
        assert self.parent.stdout
        self.parent.stdin.write(f"{what}\n")
        self.parent.stdin.flush()
        assert self.parent.stdout.readline() == "done\n"
        return held([psutil.Process(self.pid)])


@pytest.fixture
def leaking() -> Iterator[Leaking]:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", LEAKS], stdin=pipe, stdout=pipe, text=True) as parent:
        assert parent.stdout
        yield Leaking(parent, int(parent.stdout.readline()))


@pytest.mark.parametrize("leak", ["memory", "descriptors", "threads"])
def test_a_deliberate_leak_is_found(leaking: Leaking, leak: str) -> None:
    before = leaking.told("nothing")
    (name,) = before
    assert grown(before, leaking.told("nothing")) == []
    assert grown(before, leaking.told(leak)) == [f"{name} grows in {'MiB' if leak == 'memory' else leak}"]


def test_memory_that_a_child_copies_because_it_writes_to_it_is_no_leak(leaking: Leaking) -> None:
    before = leaking.told("nothing")
    assert grown(before, leaking.told("copies")) == []


def test_another_process_of_the_kind_is_no_leak_and_one_more_is() -> None:
    one, two = Held(1, 100, 10, 5), Held(2, 100, 10, 5)
    assert grown({"raylet": one}, {"raylet": one}) == []
    assert grown({"raylet": one}, {"raylet": two}) == ["raylet grows in processes"]
    assert grown({"raylet": one}, {"agent": one}) == ["agent is new", "raylet is gone"]
