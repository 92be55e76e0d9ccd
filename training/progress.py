"""What every training keeps: a checkpoint to go on from, and the running mean of the weights."""

import os
from pathlib import Path

import torch
from torch import nn


def save_checkpoint(path: Path, state: dict[str, object]) -> None:
    """Written beside and then renamed, so that an interruption leaves the previous one whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path.with_suffix(".new"))
    os.replace(path.with_suffix(".new"), path)


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Moves every weight and every running statistic of `average` towards those of `model`."""
    current = model.state_dict()
    for name, value in average.state_dict().items():
        if value.is_floating_point():
            value.lerp_(current[name], 1 - decay)
