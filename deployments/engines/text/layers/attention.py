"""Attention of one token a row, as sums that a compiler makes loops of. Only traced, never run as it stands.

torch's own kernel calls a matrix product for each row and head, which for a single query is the slowest there is on
some processors (docs/text-engine.md).
"""

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from deployments.engines.text.layers.linear import LANES


def use_step_attention() -> None:
    """From now on, in this process, models that would call torch's attention call this one."""
    AttentionInterface.register("sdpa", step_attention)


def step_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """query [rows, heads, 1, dim]; key, value [rows, kv heads, columns, dim]; additive mask [rows, 1, 1, columns].

    Gives [rows, 1, heads, dim]. Whatever is asked otherwise is left to torch's.
    """
    rows, heads, tokens, dim = query.shape
    plain = tokens == 1 and query.dtype == torch.float32 and options.get("position_bias") is None
    if not plain or attention_mask is None or attention_mask.shape[1] != 1 or not attention_mask.is_floating_point():
        given: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
        return given
    shared = key.shape[1]
    scale = dim**-0.5 if scaling is None else scaling
    asked = _kept((query * scale).reshape(rows, shared, heads // shared, 1, dim))
    scores = (asked * key[:, :, None]).sum(-1) + attention_mask
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    total = weights.sum(-1, keepdim=True)
    # Side by side in one loop over the columns.
    sums = [(weights[..., None] * lanes[:, :, None]).sum(-2) / total for lanes in value.split(LANES, -1)]
    return torch.cat(sums, -1).reshape(rows, 1, heads, value.shape[-1]), None


def _kept(tensor: Tensor) -> Tensor:
    """Memory of its own: the compiler would else compute a query's rotation anew for each column."""
    tensor = tensor.contiguous()
    return torch.as_strided(tensor, tensor.shape, tensor.stride())
