"""The forwards of a model that are compiled, and run eagerly until they are: a decode step, and whole prompts."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from deployments.engines.text_cache import StepCache, layer_tensors, step_mask


class StepModule(nn.Module):
    """One decode step: tokens and positions [rows], keys and values [rows, heads, columns, dim] for each layer.

    Gives logits float [rows, vocabulary], the best token and whether all is finite [rows]; writes into the cache.
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
    """Whole prompts in one row, one after the other: tokens, positions and which prompt they are of [tokens].

    Gives logits float [prompts, vocabulary] that follow the tokens at `last` [prompts], then the keys of each layer,
    then the values, [heads, tokens, dim].
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, positions: Tensor, prompts: Tensor, last: Tensor) -> list[Tensor]:
        hidden = (prompts[:, None] != prompts) | (positions > positions[:, None])
        mask = torch.zeros(hidden.shape, dtype=self.model.dtype, device=tokens.device)
        cache = DynamicCache(config=self.model.config)
        logits = self.model(
            input_ids=tokens[None],
            attention_mask=mask.masked_fill_(hidden, float("-inf"))[None, None],
            position_ids=positions[None],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=last,
        ).logits[0]
        keys, values = layer_tensors(cache, 0)
        return [logits.float(), *keys, *values]
