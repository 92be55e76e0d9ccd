"""From the vectors of a text's tokens to the vector of the text: pooling, and the modules after it. In float32.

The formulas are sentence-transformers'. Texts are padded behind.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from deployments.contract.errors import ModelLoadFailed, quoted
from deployments.engines.embedding.folder import Module

EPSILON = 1e-9


def pooled(hidden: Tensor, lengths: Tensor, left_out: Tensor, modes: Sequence[str]) -> Tensor:
    """Float32 [texts, width · modes] of float32 [texts, tokens, width].

    `lengths`: how many tokens each text has. `left_out`: how many of its first tokens are not pooled.
    """
    position = torch.arange(hidden.shape[1], device=hidden.device)[None]
    mask = ((position < lengths[:, None]) & (position >= left_out[:, None])).float()[..., None]
    return torch.cat([_POOLING[mode](hidden, mask) for mode in modes], -1)


def _at(hidden: Tensor, index: Tensor) -> Tensor:
    return hidden[torch.arange(len(hidden), device=hidden.device), index]


def _first(hidden: Tensor, mask: Tensor) -> Tensor:
    return _at(hidden, mask[..., 0].argmax(1))


def _last(hidden: Tensor, mask: Tensor) -> Tensor:
    return _at(hidden, mask.shape[1] - 1 - mask[..., 0].flip(1).argmax(1))


def _maximum(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden.masked_fill(mask == 0, -torch.inf).amax(1)


def _mean(hidden: Tensor, mask: Tensor) -> Tensor:
    return (hidden * mask).sum(1) / mask.sum(1).clamp(min=EPSILON)


def _mean_by_root(hidden: Tensor, mask: Tensor) -> Tensor:
    return (hidden * mask).sum(1) / mask.sum(1).clamp(min=EPSILON).sqrt()


def _weighted_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """Later tokens weigh more: by their position, counted from one."""
    return _mean(hidden, mask * torch.arange(1, hidden.shape[1] + 1, device=hidden.device)[None, :, None])


_POOLING: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cls": _first,
    "lasttoken": _last,
    "max": _maximum,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_by_root,
    "weightedmean": _weighted_mean,
}


class Normalize(nn.Module):
    def forward(self, vectors: Tensor) -> Tensor:
        return nn.functional.normalize(vectors, dim=-1)


class Dense(nn.Module):
    """A linear layer, a function, and the input beside it where the folder wants that."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        inner, outer = config["in_features"], config["out_features"]
        self.linear = nn.Linear(inner, outer, bias=config.get("bias", True))
        self.function = _function(config.get("activation_function", "torch.nn.Tanh"))
        self.adds_input = config.get("use_residual", False)
        self.residual = nn.Linear(inner, outer, bias=False) if self.adds_input and inner != outer else nn.Identity()

    def forward(self, vectors: Tensor) -> Tensor:
        result: Tensor = self.function(self.linear(vectors))
        return result + self.residual(vectors) if self.adds_input else result


class LayerNorm(nn.Module):
    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config["dimension"])

    def forward(self, vectors: Tensor) -> Tensor:
        normed: Tensor = self.norm(vectors)
        return normed


def head_of(modules: Sequence[Module]) -> nn.Sequential:
    """The modules after the pooling, in evaluation mode. Raises ModelLoadFailed."""
    return nn.Sequential(*map(_built, modules)).float().eval().requires_grad_(False)


def _built(module: Module) -> nn.Module:
    for side in ("module_input_name", "module_output_name"):
        if module.config.get(side) not in (None, "sentence_embedding"):
            raise ModelLoadFailed(f"a {module.kind} of modules.json computes {quoted(str(module.config[side]))}")
    if module.kind == "Dropout":
        return nn.Identity()
    if module.kind == "Normalize":
        return Normalize()
    weights = module.folder / "model.safetensors"
    if not weights.is_file():
        raise ModelLoadFailed(f"the weights of {module.folder.name} are missing, or pickles: save them as safetensors")
    built = Dense(module.config) if module.kind == "Dense" else LayerNorm(module.config)
    built.load_state_dict(load_file(weights))
    return built


def _function(path: str) -> nn.Module:
    """A module of torch by its path, as the folder names it."""
    package, _, name = path.rpartition(".")
    kind = getattr(nn, name, None)
    if not package.startswith("torch.nn") or not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise ModelLoadFailed(f"the activation_function {quoted(path)} is none of torch")
    built: nn.Module = kind()
    return built
