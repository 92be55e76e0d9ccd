"""The decoder that computes all rows in one forward, their keys and values side by side in a `SlotCache`.

Prompts that begin alike share what was computed of their beginning; a long prompt is computed piece by piece.
"""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from deployments.engines.text_cache import COLUMNS, SlotCache, layer_shapes, layer_tensors, power_of_two, whole_columns
from deployments.engines.text_modules import PromptModule, StepModule
from deployments.engines.text_prefixes import BLOCK, Block, Prefixes
from deployments.engines.text_programs import Programs
from deployments.engines.text_step import Entering, Step, finish
from deployments.engines.trials import Trials

SHRINK_AFTER_STEPS = 16
TOGETHER = {"cpu": 128}  # As many prompt tokens keep a CPU busy; more would only let first tokens wait.
PIECE = 512  # Tokens of a long prompt that are computed between two steps of the running rows.
MIB = 1 << 20
PREFIX_BYTES = (8 * MIB, 64 * MIB)  # At least and at most; between them a quarter of the weights.


@dataclass(frozen=True, slots=True)
class Prefilled:
    """A computed prompt: keys and values [heads, tokens, dim] of each layer, the logits [vocabulary] that follow."""

    keys: Sequence[Tensor]
    values: Sequence[Tensor]
    logits: Tensor


class SlotDecoder:
    """A row is a slot of the cache. `weight_bytes` bounds what is kept of prompts that may come again."""

    def __init__(self, model: PreTrainedModel, weight_bytes: int) -> None:
        self._model = model
        self._eager_step = StepModule(model)
        self._eager_prompts = PromptModule(model)
        self._cache = SlotCache()
        self._lengths: list[int] = []
        self._roomy = 0  # For how many steps the cache has been larger than it need be.
        self._prefixes = Prefixes(min(max(PREFIX_BYTES[0], weight_bytes // 4), PREFIX_BYTES[1]))
        self.shared_tokens = 0
        self.programs: Programs | None = None

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

    @property
    def piece(self) -> int | None:
        return PIECE

    @property
    def together(self) -> int:
        return TOGETHER.get(self._model.device.type, 2_048)

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Step:
        computed: dict[tuple[int, ...], Prefilled] = {}
        fresh = []
        for prompt in dict.fromkeys(map(tuple, prompts)):
            if blocks := self._prefixes.find(prompt):
                computed[prompt] = self._rest(prompt, self._shared(blocks))
            else:
                fresh.append(prompt)
        if fresh:
            computed |= self._together(fresh)
        return self._add(prompts, [computed[tuple(prompt)] for prompt in prompts])

    def enter(self, prompt: Sequence[int]) -> Entering:
        return _Entering(self, prompt, self._shared(self._prefixes.find(prompt)))

    def _add(self, prompts: Sequence[Sequence[int]], computed: Sequence[Prefilled]) -> Step:
        """Give computed prompts their rows."""
        self._cache.make_room(computed[0].keys, computed[0].values, self.rows + len(prompts), max(map(len, prompts)))
        for prompt, one in zip(prompts, computed, strict=True):
            self._cache.store(self.rows, one.keys, one.values)
            self._prefixes.keep(prompt, one.keys, one.values)
            self._lengths.append(len(prompt))
        return finish(torch.stack([one.logits for one in computed]))

    def _together(self, prompts: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], Prefilled]:
        """In one forward: they are one row, in which each sees itself only."""
        lengths = [len(prompt) for prompt in prompts]
        ends = list(itertools.accumulate(lengths))
        last = [end - 1 for end in ends]
        # What is compiled takes two prompts or more, and two tokens or more.
        run = (ends[-1] > 1 and self.programs and self.programs.prompts) or self._eager_prompts
        logits, *layers = run(
            self._tensor([*itertools.chain(*prompts)]),
            self._tensor([*itertools.chain(*map(range, lengths))]),
            self._tensor([*itertools.chain(*([number] * length for number, length in enumerate(lengths)))]),
            self._tensor(last if len(last) > 1 else last * 2),
        )
        if len(prompts) > 1 and not logits.max(-1).values.isfinite().all():  # One's NaN reaches all.
            return {prompt: self._together([prompt])[prompt] for prompt in prompts}
        computed = {}
        for number, prompt in enumerate(prompts):
            parts = [layer[:, ends[number] - lengths[number] : ends[number]] for layer in layers]
            half = len(parts) // 2
            computed[prompt] = Prefilled(parts[:half], parts[half:], logits[number])
        return computed

    def _shared(self, blocks: Sequence[Block]) -> DynamicCache:
        """A cache of one row that begins with these blocks."""
        cache = DynamicCache(config=self._model.config)
        if blocks:
            for layer in range(len(blocks[0].keys)):
                keys = torch.cat([block.keys[layer] for block in blocks], 1)
                cache.update(keys[None], torch.cat([block.values[layer] for block in blocks], 1)[None], layer)
        self.shared_tokens += BLOCK * len(blocks)
        return cache

    def _rest(self, prompt: Sequence[int], cache: DynamicCache, most: int | None = None) -> Prefilled:
        """Compute what follows the tokens that a cache of one row has already, or the next `most` of it."""
        known = cache.get_seq_length()
        end = len(prompt) if most is None else min(len(prompt), known + most)
        output = self._model(
            input_ids=self._tensor([prompt[known:end]]), past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        return Prefilled(*layer_tensors(cache, 0), output.logits[0, -1])

    def step(self, tokens: Sequence[int]) -> Step:
        self._make_room()
        rows, slots = self.rows, self._cache.slots
        spare = [0] * (slots - rows)  # Slots without a request compute along; what they write is never read.
        run = (self.programs and self.programs.step(slots)) or self._eager_step
        inputs = self._tensor([*tokens, *spare]), self._tensor([*self._lengths, *spare])
        logits, best, finite = run(*inputs, self._cache.keys, self._cache.values)
        self._lengths = [length + 1 for length in self._lengths]
        return Step(logits[:rows], best.tolist()[:rows], finite.tolist()[:rows])

    def _make_room(self) -> None:
        """Room for one more token a row; a cache that has been too large for a while shrinks."""
        slots, longest = power_of_two(self.rows), max(self._lengths) + 1
        capacity = self._cache.capacity
        if longest > capacity:
            capacity = whole_columns(max(longest, capacity * 5 // 4))
        self._roomy = self._roomy + 1 if slots < self._cache.slots or 2 * longest < capacity - COLUMNS else 0
        if self._roomy > SHRINK_AFTER_STEPS:
            self._roomy = 0
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
        if self.programs:
            self.programs.close()
            self.programs = None

    def compile_from(self, folder: Path, linears: str, trials: Trials) -> None:
        """Look for compiled steps, and make them once the model is used much. Only on a CPU."""
        if self._model.device.type != "cpu":
            return
        shapes = trials.recall("cache shapes") or trials.remember("cache shapes", json.dumps(self._shapes()))
        self.programs = Programs(self._model, folder, json.loads(shapes), linears)

    @torch.inference_mode()
    def _shapes(self) -> list[tuple[int, int]]:
        probe = DynamicCache(config=self._model.config)
        self._model(input_ids=self._tensor([[0]]), past_key_values=probe, use_cache=True)
        return layer_shapes(probe)

    def _tensor(self, numbers: Sequence[Any]) -> Tensor:
        return torch.tensor(numbers, device=self._model.device)


class _Entering:
    def __init__(self, decoder: SlotDecoder, prompt: Sequence[int], cache: DynamicCache) -> None:
        self._decoder = decoder
        self._prompt = prompt
        self._cache = cache

    def advance(self) -> Step | None:
        computed = self._decoder._rest(self._prompt, self._cache, PIECE)
        if self._cache.get_seq_length() < len(self._prompt):
            return None
        return self._decoder._add([self._prompt], [computed])
