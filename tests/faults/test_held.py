"""A process that leaks is found, whichever of the three it leaks; one that is replaced is none."""

import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from tests.faults.held import Held, grown, held

LEAKS = """
import sys, threading
kept, ended = [], threading.Event()
for line in sys.stdin:
    if "memory" in line:
        kept.append(bytearray(b"x" * (16 << 20)))
    if "descriptors" in line:
        kept += [open("/dev/null") for _ in range(16)]
    if "threads" in line:
        for _ in range(8):
            threading.Thread(target=ended.wait, daemon=True).start()
    print("done", flush=True)
"""


@pytest.fixture
def leaking() -> Iterator[subprocess.Popen[str]]:
    """Leaks what it is told to."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", LEAKS], stdin=pipe, stdout=pipe, text=True) as process:
        yield process
        process.kill()


def told(process: subprocess.Popen[str], what: str) -> dict[str, Held]:
    """What it holds afterwards."""
    assert process.stdin
    assert process.stdout
    process.stdin.write(f"{what}\n")
    process.stdin.flush()
    assert process.stdout.readline() == "done\n"
    return held([psutil.Process(process.pid)])


@pytest.mark.parametrize("leak", ["memory", "descriptors", "threads"])
def test_a_deliberate_leak_is_found(leaking: subprocess.Popen[str], leak: str) -> None:
    before = told(leaking, "nothing")
    (name,) = before
    assert grown(before, told(leaking, "nothing")) == []
    assert grown(before, told(leaking, leak)) == [f"{name} grows in {'MiB' if leak == 'memory' else leak}"]


def test_another_process_of_the_kind_is_no_leak_and_one_more_is() -> None:
    one, two = Held(1, 100, 10, 5), Held(2, 100, 10, 5)
    assert grown({"raylet": one}, {"raylet": one}) == []
    assert grown({"raylet": one}, {"raylet": two}) == ["raylet grows in processes"]
    assert grown({"raylet": one}, {"agent": one}) == ["agent is new", "raylet is gone"]
