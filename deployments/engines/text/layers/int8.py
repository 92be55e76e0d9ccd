"""Linear layers whose weights are 8-bit integers, one scale for each output: a quarter of the memory of fp32.

Only the weights are rounded; the computation stays in the model's dtype.
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from deployments.engines.text.layers.linear import linear_tensors, own_linears

STEPS = 127  # From 0 to the largest weight of an output.


class Int8Linear(nn.Module):
    """y = (x·Wᵀ)·scale + b, W as int8 [out, in]."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        largest = weight.float().abs().amax(1)
        scale = largest.clamp(min=torch.finfo(torch.float32).tiny * STEPS) / STEPS
        self.register_buffer("weight", (weight.float() / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale.to(weight.dtype))
        self.register_buffer("bias", bias)
        self.weight: Tensor
        self.scale: Tensor
        self.bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.linear(x, self.weight.to(x.dtype)) * self.scale
        return y if self.bias is None else y + self.bias


def quantise_linears(model: PreTrainedModel) -> None:
    """Round the weight of every linear layer, except those that an embedding shares."""
    for module, name in own_linears(model):
        setattr(module, name, Int8Linear(*linear_tensors(module.get_submodule(name))))
