"""What this machine is, in one line for a report."""

import os
import platform
from pathlib import Path
from shutil import which


def machine() -> str:
    """Cores, processor, memory, and whether torch.compile can work: one line."""
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    compiler = "a C++ compiler" if any(map(which, ("g++", "clang++", "c++"))) else "no C++ compiler"
    return f"{cores} cores of {_processor()}, {memory:.0f} GiB, {compiler}, {platform.system()} {platform.release()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()
