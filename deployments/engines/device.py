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


def end_openmp_pool() -> None:
    """Ends the pool of the calling thread. The next operation starts a new one, in 50 µs.

    Each thread that has computed keeps a pool. The threads of a pool spin until their next operation, but only for a
    microsecond once all pools of the process have more threads than there are cores: because of one idle pool, every
    operation of another begins by waking its threads (docs/text-engine.md).
    """
    _of_openmp("omp_pause_resource_all", _SOFT)


def _of_openmp(name: str, argument: int) -> None:
    """Calls a function of OpenMP that torch does not offer, where libgomp is loaded."""
    function = getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
    if function is not None:
        function(argument)


class GpuShare:
    """The share of the GPU's memory that this process may take. Models live there."""

    def __init__(self, share: float) -> None:
        """torch's allocator refuses more; the CUDA context, some hundred MB, is not part of it."""
        share = min(share, 1.0)
        torch.cuda.set_per_process_memory_fraction(share)
        self.total_bytes = int(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory * share)

    def held(self) -> int:
        """What torch's allocator holds."""
        return torch.cuda.memory_reserved()

    def give_back(self) -> None:
        torch.cuda.empty_cache()


def gpu_fault() -> str | None:
    """What this process's use of the GPU ends with, since a kernel failed: it can compute nothing there any more."""
    if not torch.cuda.is_initialized():
        return None
    try:
        torch.cuda.current_stream().query()  # Waits for nothing, and raises what an earlier kernel has left.
    except RuntimeError as failure:
        return f"the GPU answers {str(failure).splitlines()[0]}"
    return None


def gpu_share(share: float | None) -> GpuShare | None:
    """Takes a share of the GPU that Ray gave this process; None where there is none."""
    return GpuShare(share) if share and torch.cuda.is_available() else None
