"""Where engines run, and on how many threads."""

import ctypes
import sys

import torch

_SOFT = 1  # omp_pause_soft: what the thread has set stays as it is.


def default_device() -> str:
    """The GPU that Ray gave this process, if any."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def use_threads(count: int) -> None:
    """Threads of one operation, for every engine of this process."""
    torch.set_num_threads(count)


def use_team(size: int) -> None:
    """Threads of one operation of the calling thread. Others keep theirs."""
    torch.get_num_threads()  # When a thread first asks torch, torch sets its number.
    _of_openmp("omp_set_num_threads", size)


def end_openmp_pool() -> None:
    """Ends the threads that compute for this one. It gets new ones, in 50 µs, when it computes again.

    Each thread that has computed keeps a team of its own. libgomp lets those that wait for their next part spin, but
    for a microsecond only once all teams together have more threads than there are cores: with the team of one idle
    thread in the process, every loop of another begins with waking sleepers (docs/text-engine.md).
    """
    _of_openmp("omp_pause_resource_all", _SOFT)


def _of_openmp(name: str, argument: int) -> None:
    """Calls what torch has no name for, where its OpenMP is found."""
    function = getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
    if function is not None:
        function(argument)


class GpuShare:
    """The part of the GPU's memory that this process may take. Models live there, and its memory is given back."""

    def __init__(self, share: float) -> None:
        """torch's allocator refuses what is beyond it; the CUDA context, some hundred MB, lies outside."""
        share = min(share, 1.0)
        torch.cuda.set_per_process_memory_fraction(share)
        self.total_bytes = int(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory * share)

    def held(self) -> int:
        """What torch's allocator holds."""
        return torch.cuda.memory_reserved()

    def give_back(self) -> None:
        torch.cuda.empty_cache()


def gpu_share(share: float | None) -> GpuShare | None:
    """Takes a share of the GPU that Ray gave this process; None where there is none."""
    return GpuShare(share) if share and torch.cuda.is_available() else None
