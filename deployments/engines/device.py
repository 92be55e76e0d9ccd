"""Where engines run, and on how many threads."""

import torch


def default_device() -> str:
    """The GPU that Ray gave this process, if any."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def use_threads(count: int) -> None:
    """Threads of one operation, for every engine of this process."""
    torch.set_num_threads(count)
