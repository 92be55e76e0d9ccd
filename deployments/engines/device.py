"""Where engines run, and on how many threads."""

import torch


def default_device() -> str:
    """The GPU that Ray gave this process, if any."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def use_threads(count: int) -> None:
    """Threads of one operation, for every engine of this process."""
    torch.set_num_threads(count)


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
