"""Linear layers with weights packed for oneDNN: up to three times as fast on a CPU as plain ones.

Layers with the same input (queries, keys and values) become one. The packed weight replaces the plain one, so that
memory is held once. A compiled step calls the same operation on the same weights; the step of a single row, which is
bound by memory, reads the blocked weights from end to end.
"""

import ctypes
import itertools
import math
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

PACKED_FOR_ROWS = 16  # A hint for the layout; any number of rows may come.
BLOCK = 64  # Outputs whose weights oneDNN lays side by side.
LANES = 16  # Outputs that are added up at a time: one register of the widest kind.

Layout = Literal["plain", "packed", "blocked"]

Siblings = tuple[tuple[str, ...], ...]
"""Names of layers that have the same input, in this order, in every module that has them all."""


class PackedLinear(nn.Module):
    """y = x·Wᵀ + b. `weight` is [out, in], packed or plain; blocked, [out / 64, in, 64], for a single row."""

    def __init__(self, weight: Tensor, bias: Tensor | None, layout: Layout) -> None:
        super().__init__()
        self.outputs = weight.shape[0]
        self.register_buffer("weight", _laid(weight, layout))
        self.register_buffer("bias", bias)
        self.weight: Tensor
        self.bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.dim() == 3:
            return self._single(x)
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return y

    def _single(self, x: Tensor) -> Tensor:
        row = x.reshape(-1, 1)
        # Sums side by side, so that the compiler makes one loop of them that reads the memory from end to end.
        sums = [(lanes * row).sum(1) for lanes in self.weight.split(LANES, 2)]
        y = torch.stack(sums, 1).reshape(*x.shape[:-1], -1)[..., : self.outputs]
        return y if self.bias is None else y + self.bias

    def blocked_weight(self) -> Tensor | None:
        """The packed weight's own memory as [out / 64, in, 64], zeros at the end; None if oneDNN packed it otherwise.

        Not a copy: it may be read for as long as `weight` lives.
        """
        if not self.weight.is_mkldnn:
            return None
        inputs = self.weight.shape[1]
        shape = blocked_shape(self.outputs, inputs)
        if torch.ops.mkldnn._nbytes(self.weight) != math.prod(shape) * 4:
            return None
        memory = (ctypes.c_char * (math.prod(shape) * 4)).from_address(torch.ops.mkldnn.data_ptr(self.weight))
        blocked = torch.frombuffer(memory, dtype=torch.float32).view(shape)
        probe = torch.randn(1, inputs)
        expected = torch.ops.mkldnn._linear_pointwise(probe, self.weight, None, "none", [], "")
        found = (blocked[0].t() @ probe[0])[: self.outputs]
        return blocked if torch.allclose(found, expected[0, : len(found)], rtol=1e-3, atol=1e-3) else None


class FirstSibling(PackedLinear):
    """Computes all siblings, returns its own part and keeps the others until they are called with the same tensor."""

    def __init__(self, weight: Tensor, bias: Tensor | None, layout: Layout, sizes: Sequence[int]) -> None:
        super().__init__(weight, bias, layout)
        self._sizes = list(sizes)
        self._kept = threading.local()  # A compiled step may be checked beside the thread that serves.

    def forward(self, x: Tensor) -> Tensor:
        parts = list(super().forward(x).split(self._sizes, -1))
        first: Tensor = parts.pop(0)
        self._kept.of, self._kept.others = x, parts
        return first

    def take(self, x: Tensor) -> Tensor:
        if self._kept.of is not x:
            raise ValueError("a sibling was given another tensor")
        other: Tensor = self._kept.others.pop(0)
        if not self._kept.others:
            self._kept.of = None
        return other


class NextSibling(nn.Module):
    """Returns its part of what the first sibling has computed."""

    def __init__(self, first: FirstSibling) -> None:
        super().__init__()
        self._first = (first,)  # In a tuple, so that it has one parent only.

    def forward(self, x: Tensor) -> Tensor:
        return self._first[0].take(x)


def may_pack(model: PreTrainedModel) -> bool:
    return model.device.type == "cpu" and model.dtype == torch.float32 and torch.backends.mkldnn.is_available()


def swap_linears(model: PreTrainedModel, siblings: Siblings, layout: Layout) -> None:
    """Put a `PackedLinear` in place of each linear layer whose weight no other layer shares.

    One layer after the other, so that no more than one weight is held twice.
    """
    for module, owned in itertools.groupby(own_linears(model), lambda one: one[0]):
        layers = {name: module.get_submodule(name) for _, name in owned}
        for group in siblings:
            if all(name in layers for name in group):
                _fuse(module, [(name, layers.pop(name)) for name in group], layout)
        for name in list(layers):
            weight, bias = linear_tensors(layers.pop(name))
            setattr(module, name, PackedLinear(weight, bias, layout))


def _fuse(module: nn.Module, group: Sequence[tuple[str, nn.Module]], layout: Layout) -> None:
    tensors = [linear_tensors(child) for _, child in group]
    weight = torch.cat([weight for weight, _ in tensors])
    biases = [torch.zeros(weight.shape[0]) if bias is None else bias for weight, bias in tensors]
    bias = None if all(bias is None for _, bias in tensors) else torch.cat(biases)
    first = FirstSibling(weight, bias, layout, [len(weight) for weight, _ in tensors])
    setattr(module, group[0][0], first)
    for name, _ in group[1:]:
        setattr(module, name, NextSibling(first))


def _laid(weight: Tensor, layout: Layout) -> Tensor:
    if layout == "plain":
        return weight
    if layout == "blocked":  # For the compiler: the values come later.
        return weight.new_empty(blocked_shape(*weight.shape))
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, PACKED_FOR_ROWS)
    return packed


def blocked_shape(outputs: int, inputs: int) -> tuple[int, int, int]:
    return -(-outputs // BLOCK), inputs, BLOCK


def blocked_weights(model: nn.Module) -> dict[str, Tensor]:
    """The blocked weight of each packed layer, by name; empty unless every layer has one."""
    packed = {name: module for name, module in model.named_modules() if isinstance(module, PackedLinear)}
    weights = {f"{name}.weight": layer.blocked_weight() for name, layer in packed.items()}
    found = {name: weight for name, weight in weights.items() if weight is not None}
    return found if len(found) == len(packed) else {}


def linear_tensors(layer: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight [out, in] and bias."""
    weight, bias = layer.get_parameter("weight").detach(), layer._parameters["bias"]
    return weight.t().contiguous() if isinstance(layer, Conv1D) else weight, None if bias is None else bias.detach()


def own_linears(model: PreTrainedModel) -> list[tuple[nn.Module, str]]:
    """Module and name of every linear layer whose weight no other layer shares: both owners must see one tensor."""
    owners = Counter(id(weight) for module in model.modules() for weight in module.parameters(recurse=False))
    return [
        (module, name)
        for module in model.modules()
        for name, child in module.named_children()
        if type(child) in (nn.Linear, Conv1D) and owners[id(child.weight)] == 1
    ]


def trace_linears(model: PreTrainedModel, ids: Tensor) -> tuple[Tensor, Siblings]:
    """The logits, and which layers of one module are called with the same tensor one after the other."""
    calls: list[tuple[nn.Module, str, Tensor]] = []

    def remember(module: nn.Module, name: str) -> "torch.utils.hooks.RemovableHandle":
        child = module.get_submodule(name)
        return child.register_forward_pre_hook(lambda _, inputs: calls.append((module, name, inputs[0])))

    handles = [remember(module, name) for module, name in own_linears(model)]
    try:
        logits: Tensor = model(input_ids=ids).logits
    finally:
        for handle in handles:
            handle.remove()
    groups = itertools.groupby(calls, lambda call: (id(call[0]), id(call[2])))
    names = dict.fromkeys(tuple(name for _, name, _ in group) for _, group in groups)
    return logits, tuple(group for group in names if len(group) > 1)
