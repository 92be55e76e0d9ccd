"""The inputs of one image for its model, and of several as a batch: pixel values, or other tensors of its processor."""

from collections.abc import Sequence
from typing import Any

import torch


class Inputs(dict[str, torch.Tensor]):
    """Of a model that takes more than pixel values: tensors by the names of its arguments."""

    @property
    def shape(self) -> tuple[torch.Size, ...]:
        return tuple(tensor.shape for tensor in self.values())


Item = torch.Tensor | Inputs
"""Pixel values, float32 [channels, height, width]; `Inputs` only where the model takes other tensors."""


def batch_of(items: Sequence[Any]) -> Any:
    """Items of one shape as one, in a new first dimension."""
    if isinstance(items[0], Inputs):
        return Inputs({name: torch.stack([item[name] for item in items]) for name in items[0]})
    return items[0][None] if len(items) == 1 else torch.stack(list(items))


def arguments(batch: Any, model: Any) -> dict[str, torch.Tensor]:
    """The arguments of the model's call, on its device and in its dtype."""
    if isinstance(batch, Inputs):
        return {name: t.to(model.device, model.dtype if t.is_floating_point() else None) for name, t in batch.items()}
    return {"pixel_values": batch.to(model.device, model.dtype, memory_format=torch.channels_last)}
