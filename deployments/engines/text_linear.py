"""Linear layers whose weights lie as oneDNN wants to read them: up to three times as fast on a CPU as plain ones.

Layers that are given the same tensor (queries, keys and values) become one. The packed weight takes the plain one's
place, so that memory is held once. A compiled step calls the same operation and is lent the same weights.
"""

import threading
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

PACKED_FOR_ROWS = 16  # A hint for the layout; any number of rows may come.

Siblings = tuple[tuple[str, ...], ...]
"""Names of layers that, wherever one module has them all, are given the same tensor, in this order."""


class PackedLinear(nn.Module):
    """y = x·Wᵀ + b. `weight` [out, in] may be packed or plain."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.weight: Tensor
        self.bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return y


class FirstSibling(PackedLinear):
    """Computes all siblings, gives its own part and keeps the others until they ask with the same tensor."""

    def __init__(self, weight: Tensor, bias: Tensor | None, sizes: Sequence[int]) -> None:
        super().__init__(weight, bias)
        self._sizes = list(sizes)
        self._kept = threading.local()  # A check of a compiled step may run beside the thread that serves.

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
    """Takes its part of what the first one has computed."""

    def __init__(self, first: FirstSibling) -> None:
        super().__init__()
        self._first = (first,)  # In a tuple, so that it has one parent only.

    def forward(self, x: Tensor) -> Tensor:
        return self._first[0].take(x)


def may_pack(model: PreTrainedModel) -> bool:
    return model.device.type == "cpu" and model.dtype == torch.float32 and torch.backends.mkldnn.is_available()


def swap_linears(model: PreTrainedModel, siblings: Siblings, packed: bool) -> None:
    """Put a `PackedLinear` in place of each linear layer whose weight nobody shares, packed or as it lies.

    One layer after the other, so that no more than one weight is held twice.
    """
    shared = _shared_weights(model)
    for module in list(model.modules()):
        layers = {name: child for name, child in module.named_children() if _is_linear(child, shared)}
        for group in siblings:
            if all(name in layers for name in group):
                _fuse(module, [(name, layers.pop(name)) for name in group], packed)
        for name in list(layers):
            weight, bias = linear_tensors(layers.pop(name))
            setattr(module, name, PackedLinear(_packed(weight) if packed else weight, bias))


def _fuse(module: nn.Module, group: Sequence[tuple[str, nn.Module]], packed: bool) -> None:
    tensors = [linear_tensors(child) for _, child in group]
    weight = torch.cat([weight for weight, _ in tensors])
    biases = [torch.zeros(weight.shape[0]) if bias is None else bias for weight, bias in tensors]
    bias = None if all(bias is None for _, bias in tensors) else torch.cat(biases)
    first = FirstSibling(_packed(weight) if packed else weight, bias, [len(weight) for weight, _ in tensors])
    setattr(module, group[0][0], first)
    for name, _ in group[1:]:
        setattr(module, name, NextSibling(first))


def _packed(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, PACKED_FOR_ROWS)
    return packed


def linear_tensors(layer: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight [out, in] and bias."""
    weight, bias = layer.get_parameter("weight").detach(), layer._parameters["bias"]
    return weight.t().contiguous() if isinstance(layer, Conv1D) else weight, None if bias is None else bias.detach()


def _is_linear(layer: nn.Module, shared: set[int]) -> bool:
    return type(layer) in (nn.Linear, Conv1D) and id(layer.weight) not in shared


def own_linears(model: PreTrainedModel) -> list[tuple[nn.Module, str]]:
    """Module and name of every linear layer whose weight nobody shares."""
    shared = _shared_weights(model)
    return [
        (module, name)
        for module in model.modules()
        for name, child in module.named_children()
        if _is_linear(child, shared)
    ]


def trace_linears(model: PreTrainedModel, ids: Tensor) -> tuple[Tensor, Siblings]:
    """The logits, and which layers of one module are given the same tensor one after the other."""
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
    groups: list[list[tuple[nn.Module, str, Tensor]]] = []
    for call in calls:
        if groups and groups[-1][0][0] is call[0] and groups[-1][0][2] is call[2]:
            groups[-1].append(call)
        else:
            groups.append([call])
    return logits, tuple(dict.fromkeys(tuple(name for _, name, _ in group) for group in groups if len(group) > 1))


def _shared_weights(model: PreTrainedModel) -> set[int]:
    """Weights with two owners, such as an embedding that is the output layer too: both must see one tensor."""
    seen: set[int] = set()
    shared: set[int] = set()
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            (shared if id(parameter) in seen else seen).add(id(parameter))
    return shared
