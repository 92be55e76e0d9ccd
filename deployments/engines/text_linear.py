"""Linear layers whose weights lie as oneDNN wants to read them: up to three times as fast on a CPU as plain ones.

The packed weight takes the plain one's place, so that memory is held once. A compiled step calls the same operation
and is lent the same weights.
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

PACKED_FOR_ROWS = 16  # A hint for the layout; any number of rows may come.


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


def can_pack(model: PreTrainedModel) -> bool:
    return model.device.type == "cpu" and model.dtype == torch.float32 and torch.backends.mkldnn.is_available()


def pack_linears(model: PreTrainedModel, ids: Tensor) -> bool:
    """Pack every linear layer whose weight nobody shares; whether the model still says the same on `ids` [1, n].

    A model that does not (some reach into their layers' weights) is left as it was.
    """
    if not can_pack(model):
        return False
    with torch.inference_mode():
        expected = model(input_ids=ids).logits
        plain = swap_linears(model, packed=True)
        try:
            given = model(input_ids=ids).logits
            agrees = bool((given - expected).abs().max() <= 1e-3 * expected.abs().max())
        except Exception:  # Whatever it is: these weights stay plain.
            agrees = False
    if not agrees:
        for module, name, child in plain:
            setattr(module, name, child)
    return agrees and bool(plain)


def swap_linears(model: PreTrainedModel, packed: bool) -> list[tuple[nn.Module, str, nn.Module]]:
    """Put a `PackedLinear` in place of linear layers, its weight packed or as it lies; what was there before."""
    shared = _shared_weights(model)
    replaced: list[tuple[nn.Module, str, nn.Module]] = []
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) not in (nn.Linear, Conv1D) or id(child.weight) in shared:
                continue
            weight: Tensor = child.weight.detach()  # type: ignore[operator]  # a parameter
            bias = None if child.bias is None else child.bias.detach()  # type: ignore[operator]  # a parameter
            weight = weight.t().contiguous() if isinstance(child, Conv1D) else weight
            if packed:
                weight = torch.ops.mkldnn._reorder_linear_weight(weight, PACKED_FOR_ROWS)
            setattr(module, name, PackedLinear(weight, bias))
            replaced.append((module, name, child))
    return replaced


def _shared_weights(model: PreTrainedModel) -> set[int]:
    """Weights with two owners, such as an embedding that is the output layer too: both must see one tensor."""
    seen: set[int] = set()
    shared: set[int] = set()
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            (shared if id(parameter) in seen else seen).add(id(parameter))
    return shared
