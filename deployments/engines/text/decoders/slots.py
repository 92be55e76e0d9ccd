"""The decoder that computes all rows in one forward, their keys and values side by side in a `SlotCache`.

Prompts that begin alike share the prefix cache; a long prompt is prefilled in chunks.
"""

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from deployments.engines.probes import ProbeCache
from deployments.engines.text.compiled.artifacts import AotArtifacts
from deployments.engines.text.compiled.modules import PromptModule, StepModule
from deployments.engines.text.decoders.decoder import ChunkedPrefill, StepOutput, step_output
from deployments.engines.text.decoders.prefixes import BLOCK, Prefixes, PrefixKV
from deployments.engines.text.layers.kv_cache import COLUMNS, SlotCache, layer_tensors, power_of_two, whole_columns

SHRINK_AFTER_STEPS = 16
PREFILL_BUDGET = {"cpu": 128}  # So many prompt tokens keep a CPU busy; more would only delay first tokens.
MIB = 1 << 20
NO_PROMPT = -1
PREFIX_BYTES = (8 * MIB, 64 * MIB)  # At least and at most; between them a quarter of the weights.


@dataclass(frozen=True, slots=True)
class PromptKV(PrefixKV):
    """Of a whole prompt or chunk, and the logits [vocabulary] that follow."""

    logits: Tensor


class SlotDecoder:
    """A row is a slot of the cache. `weight_bytes` bounds the prefix cache."""

    chunk_size = 512
    """Tokens of a long prompt that are computed between two steps of the running rows."""

    def __init__(self, model: PreTrainedModel, weight_bytes: int) -> None:
        self._model = model
        self._eager_step = StepModule(model)
        self._eager_prompts = PromptModule(model)
        self._cache = SlotCache()
        self._lengths: list[int] = []
        self._oversized_steps = 0  # Since the cache was last no larger than it has to be.
        self._prefixes = Prefixes(min(max(PREFIX_BYTES[0], weight_bytes // 4), PREFIX_BYTES[1]))
        self.shared_tokens = 0
        self.prefill_budget = PREFILL_BUDGET.get(model.device.type, 2_048)
        self.aot: AotArtifacts | None = None
        self._unseen = PrefixKV([], [])  # For compiled forwards: two columns that no prompt sees.

    @property
    def rows(self) -> int:
        return len(self._lengths)

    @property
    def nbytes(self) -> int:
        return self._cache.nbytes + self._prefixes.nbytes

    @property
    def use(self) -> float:
        columns = self._cache.slots * self._cache.capacity
        return sum(self._lengths) / columns if columns else 0.0

    def prefill(self, prompts: Sequence[Sequence[int]]) -> StepOutput:
        each = list(dict.fromkeys(map(tuple, prompts)))
        computed = dict(zip(each, self._compute([self._prefix_of(prompt) for prompt in each], each), strict=True))
        return self._add(prompts, [computed[tuple(prompt)] for prompt in prompts])

    def begin_chunked(self, prompt: Sequence[int]) -> ChunkedPrefill:
        known = self._prefix_of(prompt)
        while known.tokens < len(prompt):
            [computed] = self._compute([known], [prompt[: known.tokens + self.chunk_size]])
            known = computed
            yield self._add([prompt], [computed]) if known.tokens == len(prompt) else None

    def _prefix_of(self, prompt: Sequence[int]) -> PrefixKV:
        """What the prefix cache has of this prompt."""
        blocks = self._prefixes.find(prompt) if self._prefixes.nbytes and len(prompt) > BLOCK else []
        self.shared_tokens += BLOCK * len(blocks)
        return PrefixKV(
            _side_by_side([block.keys for block in blocks]), _side_by_side([block.values for block in blocks])
        )

    def _add(self, prompts: Sequence[Sequence[int]], computed: Sequence[PromptKV]) -> StepOutput:
        """Give prefilled prompts their rows."""
        self._cache.grow(computed[0].keys, computed[0].values, self.rows + len(prompts), max(map(len, prompts)))
        for prompt, one in zip(prompts, computed, strict=True):
            self._cache.store(self.rows, one.keys, one.values)
            self._prefixes.keep(prompt, one.keys, one.values)
            self._lengths.append(len(prompt))
        return step_output(torch.stack([one.logits for one in computed]))

    def _compute(self, prefixes: Sequence[PrefixKV], prompts: Sequence[Sequence[int]]) -> list[PromptKV]:
        """All beyond their prefixes, in one forward: they are one row, in which each prompt attends to itself only."""
        lengths = [len(prompt) - one.tokens for one, prompt in zip(prefixes, prompts, strict=True)]
        ends = list(itertools.accumulate(lengths))
        last = [end - 1 for end in ends]
        known = [(number, one) for number, one in enumerate(prefixes) if one.tokens]
        # Compiled forwards take two tokens at least, and two columns of prefix.
        compiled = self.aot.ready.get("prompts") if self.aot and ends[-1] > 1 else None
        if compiled and not known:
            known = [(NO_PROMPT, self._unseen)]
        logits, *new = (compiled or self._eager_prompts)(
            self._tensor(_chain(prompt[one.tokens :] for one, prompt in zip(prefixes, prompts, strict=True))),
            self._tensor(_chain(range(one.tokens, len(prompt)) for one, prompt in zip(prefixes, prompts, strict=True))),
            self._tensor(_chain([number] * length for number, length in enumerate(lengths))),
            self._tensor(last if len(last) > 1 else last * 2),
            self._tensor(_chain(range(one.tokens) for _, one in known)),
            self._tensor(_chain([number] * one.tokens for number, one in known)),
            _side_by_side([one.keys for _, one in known]),
            _side_by_side([one.values for _, one in known]),
        )
        if len(prompts) > 1 and not logits.max(-1).values.isfinite().all():  # The NaN of one prompt reaches all.
            return [self._compute([one], [prompt])[0] for one, prompt in zip(prefixes, prompts, strict=True)]
        computed = []
        for number, one in enumerate(prefixes):
            columns = [layer[:, ends[number] - lengths[number] : ends[number]] for layer in new]
            keys, values = columns[: len(columns) // 2], columns[len(columns) // 2 :]
            if one.tokens:
                keys, values = _side_by_side([one.keys, keys]), _side_by_side([one.values, values])
            computed.append(PromptKV(keys, values, logits[number]))
        return computed

    def step(self, tokens: Sequence[int]) -> StepOutput:
        self._fit_cache()
        rows, slots = self.rows, self._cache.slots
        spare = [0] * (slots - rows)  # Slots without a request compute along; what they write is never read.
        run = (self.aot and self.aot.step(slots)) or self._eager_step
        inputs = self._tensor([*tokens, *spare]), self._tensor([*self._lengths, *spare])
        logits, best, finite = run(*inputs, self._cache.keys, self._cache.values)
        self._lengths = [length + 1 for length in self._lengths]
        return StepOutput(logits[:rows], best.tolist()[:rows], finite.tolist()[:rows])

    def _fit_cache(self) -> None:
        """Fit one more token a row. A cache that has been too large for a while shrinks."""
        slots, longest = power_of_two(self.rows), max(self._lengths) + 1
        capacity = self._cache.capacity
        if longest > capacity:
            capacity = whole_columns(max(longest, capacity * 5 // 4))
        self._oversized_steps = (
            self._oversized_steps + 1 if slots < self._cache.slots or 2 * longest < capacity - COLUMNS else 0
        )
        if self._oversized_steps > SHRINK_AFTER_STEPS:
            self._oversized_steps = 0
            self._cache.fit(slots, whole_columns(longest))
        else:
            self._cache.fit(max(slots, self._cache.slots), capacity)

    def release(self, row: int, broken: bool = False) -> None:
        if broken:
            self._cache.wipe(row)
        last = self._lengths.pop()
        if row < self.rows:
            self._cache.move(self.rows, row, last)
            self._lengths[row] = last
        if not self._lengths:
            self._cache.clear()

    def clear(self) -> None:
        self._cache.clear()
        self._prefixes.clear()
        self._lengths = []

    def close(self) -> None:
        self.clear()
        if self.aot:
            self.aot.close()
            self.aot = None
        del self._model, self._eager_step, self._eager_prompts

    def compile_from(self, folder: Path, linears: str, probes: ProbeCache) -> None:
        """Use compiled forwards, and compile them once the model is used much. Only on a CPU."""
        if self._model.device.type != "cpu":
            return
        known = probes.recall("cache shapes") or probes.remember("cache shapes", json.dumps(self._shapes()))
        shapes = json.loads(known)
        self.aot = AotArtifacts(self._model, folder, shapes, linears)
        columns = [torch.zeros(heads, 2, dim, dtype=self._model.dtype) for heads, dim in shapes]
        self._unseen = PrefixKV(columns, columns)

    @torch.inference_mode()
    def _shapes(self) -> list[tuple[int, int]]:
        """Heads and dim of each layer."""
        probe = DynamicCache(config=self._model.config)
        self._model(input_ids=self._tensor([0])[None], past_key_values=probe, use_cache=True)
        return [(keys.shape[0], keys.shape[2]) for keys in layer_tensors(probe)[0]]

    def _tensor(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.long, device=self._model.device)


def _chain(parts: Iterable[Iterable[int]]) -> list[int]:
    return list(itertools.chain.from_iterable(parts))


def _side_by_side(parts: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Of each part keys or values of each layer, [heads, tokens, dim]."""
    return [torch.cat(layer, 1) for layer in zip(*parts, strict=True)]
