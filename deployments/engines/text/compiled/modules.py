"""The two forwards of a model, which run eagerly until they are compiled: a decode step, and prompts."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from deployments.engines.text.layers.kv_cache import PromptCache, StepCache, layer_tensors, step_mask


class StepModule(nn.Module):
    """One decode step: tokens and positions [rows], keys and values [rows, heads, columns, dim] for each layer.

    Returns logits float [rows, vocabulary], the best token and whether all is finite [rows]; writes into the cache.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, tokens: Tensor, positions: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        logits = self.model(
            input_ids=tokens[:, None],
            attention_mask=step_mask(positions, keys[0].shape[2], keys[0].dtype),
            position_ids=positions[:, None],
            past_key_values=StepCache(keys, values, positions),
            use_cache=True,
        ).logits[:, -1]
        logits = logits.float()
        value, best = logits.max(-1)  # NaN counts as the maximum, so one check sees every bad row.
        return logits, best, value.isfinite()


class PromptModule(nn.Module):
    """Prompts in one row, one after the other, beyond their prefix KV.

    The position of each token [tokens] and of each column of prefix KV [known], and which prompt it belongs to; `last`
    [prompts]: the tokens that end one. Keys and values [heads, known, dim] for each layer, or none at all.
    Returns logits float [prompts, vocabulary], then the tokens' keys of each layer, then values, [heads, tokens, dim].
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        prompts: Tensor,
        last: Tensor,
        known_positions: Tensor,
        known_prompts: Tensor,
        keys: Sequence[Tensor],
        values: Sequence[Tensor],
    ) -> list[Tensor]:
        hidden = torch.cat([known_prompts, prompts]) != prompts[:, None]
        hidden |= torch.cat([known_positions, positions]) > positions[:, None]
        mask = torch.zeros(hidden.shape, dtype=self.model.dtype, device=tokens.device)
        cache = PromptCache(keys, values) if keys else DynamicCache(config=self.model.config)
        logits = self.model(
            input_ids=tokens[None],
            attention_mask=mask.masked_fill_(hidden, float("-inf"))[None, None],
            position_ids=positions[None],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=last,
        ).logits[0]
        columns = (column[:, known_prompts.shape[0] :] for kind in layer_tensors(cache) for column in kind)
        return [logits.float(), *columns]
