"""`python -m benchmarks.idle [OTHER_CHECKOUT]`: what `model-runtime serve` takes while nobody asks.

The proportional memory (PSS) of all its processes, and the share of a core that they use, after the samples of the
start. Two checkouts serve the same models, the other one's, first the one, then the other.
"""

import argparse
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.servers import plain_environment, settle, started
from serve_app.bench.machine import machine

READY_S, SETTLE_S, SECONDS = 300.0, 60.0, 20.0
SMALL_MIB = 12


@dataclass
class Idle:
    """`mib` and `cores` by the name of the process."""

    mib: dict[str, float]
    cores: dict[str, float]

    def __str__(self) -> str:
        return f"{sum(self.mib.values()):.0f} MiB, {sum(self.cores.values()):.1%} of a core, {len(self.mib)} processes"


def idle(checkout: Path, models: Path, seconds: float) -> Idle:
    program = checkout / ".venv" / "bin" / "model-runtime"
    with tempfile.TemporaryDirectory(prefix="idle", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        command = [str(program), "serve", "--models", str(models), "--port", "18423"]
        environment = plain_environment(folder) | {"PYTHONPATH": str(checkout)}
        with started(command, environment, folder) as (process, log):
            give_up = time.monotonic() + READY_S
            while "is ready after" not in (text := log.read_text("utf-8")):
                if process.poll() is not None or time.monotonic() > give_up:
                    raise SystemExit(f"{program} did not start:\n{text}")
                time.sleep(0.5)
            settle(SETTLE_S)
            return measured(psutil.Process(process.pid), seconds)


def measured(root: psutil.Process, seconds: float) -> Idle:
    processes = [root, *root.children(recursive=True)]
    before = {process.pid: sum(process.cpu_times()[:2]) for process in processes}
    begun = time.monotonic()
    time.sleep(seconds)
    passed = time.monotonic() - begun
    found = Idle({}, {})
    for process in processes:
        try:
            used, name = sum(process.cpu_times()[:2]) - before[process.pid], name_of(process)
            found.mib[name] = pss(process.pid)
            found.cores[name] = used / passed
        except (psutil.Error, OSError):
            continue
    return found


def pss(pid: int) -> float:
    [kib] = re.findall(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text("utf-8"), re.MULTILINE)
    return int(kib) / 1024


def name_of(process: psutil.Process) -> str:
    words = process.cmdline() or [process.name()]
    programs = [Path(word).name for word in words[1:] if word and not word.startswith("-")]
    is_python = Path(words[0]).name.startswith("python")  # Its program is the module or the script.
    return f"{programs[0] if is_python and programs else Path(words[0]).name} {process.pid}"


def report(name: str, found: Idle) -> None:
    print(f"\n{name}: {found}\n\n| process | MiB | of a core |\n|---|--:|--:|")
    for process, mib in sorted(found.mib.items(), key=lambda one: -one[1]):
        if mib >= SMALL_MIB or found.cores[process] >= 0.002:
            print(f"| {process.rpartition(' ')[0]} | {mib:.0f} | {found.cores[process]:.1%} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, nargs="?", help="a checkout with a .venv of its own")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    options = parser.parse_args()
    print(machine())
    checkouts: dict[str, Path] = {"here": Path(__file__).parents[1]}
    if options.other:
        checkouts["there"] = options.other.resolve()
    models = list(checkouts.values())[-1] / "models"  # The same for both.
    found = {name: idle(checkout, models, options.seconds) for name, checkout in checkouts.items()}
    for name, one in found.items():
        report(name, one)


if __name__ == "__main__":
    main()
