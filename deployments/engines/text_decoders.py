"""How tokens are computed: all rows in one forward where the model allows, else row by row.

A `Decoder` holds one row for each running request; rows are numbered from 0 without a gap. Which decoder a model
gets is found by trying: the fastest one whose logits agree with the model's plain forward.
"""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer

from deployments.engines.text_cache import COLUMNS, SlotCache, layer_shapes, power_of_two, whole_columns
from deployments.engines.text_compile import StepModule
from deployments.engines.text_model import CausalModel
from deployments.engines.text_programs import StepPrograms
from deployments.errors import Unavailable

CARRIED = ("past_key_values", "cache_params", "state")  # What models call the memory they hand back.
SHRINK_AFTER_STEPS = 16
PREFILL_TOKENS = 2_048  # Prompts are prefilled together up to so many tokens, padding included.


class Step(NamedTuple):
    """Logits float [rows, vocabulary], the best token of each row, and whether the row is free of NaN and infinity."""

    logits: Tensor
    best: list[int]
    finite: list[bool]


class Decoder(Protocol):
    @property
    def rows(self) -> int: ...

    @property
    def nbytes(self) -> int:
        """Bytes held for all rows."""

    @property
    def use(self) -> float:
        """The share of these bytes that holds tokens, from 0 to 1."""

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Step:
        """Add a row for each prompt, after the present ones; the logits that follow each prompt."""

    def step(self, tokens: Sequence[int]) -> Step:
        """Append one token to each row; the logits that follow."""

    def release(self, row: int, broken: bool = False) -> None:
        """Give a row up; the last row takes its number. `broken`: it may hold NaN."""

    def clear(self) -> None:
        """Give up all rows and their memory."""

    def close(self) -> None:
        """Give up everything. Nothing may be called after it."""


def _finish(logits: Tensor) -> Step:
    logits = logits.float()
    value, best = logits.max(-1)  # NaN counts as the maximum, so one check sees every bad row.
    return Step(logits, best.tolist(), value.isfinite().tolist())


class SlotDecoder:
    """All rows in one forward, their keys and values side by side in a `SlotCache`."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._eager = StepModule(model)
        self._cache = SlotCache()
        self._lengths: list[int] = []
        self._roomy = 0  # For how many steps the cache has been larger than it need be.
        self.programs: StepPrograms | None = None

    @property
    def rows(self) -> int:
        return len(self._lengths)

    @property
    def nbytes(self) -> int:
        return self._cache.nbytes

    @property
    def use(self) -> float:
        columns = self._cache.slots * self._cache.capacity
        return sum(self._lengths) / columns if columns else 0.0

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Step:
        lengths = [len(prompt) for prompt in prompts]
        longest = max(lengths)
        # Pad right: under the causal mask nothing before the padding sees it, so no mask is needed.
        ids = self._tensor([[*prompt, *[prompt[-1]] * (longest - len(prompt))] for prompt in prompts])
        last = sorted({length - 1 for length in lengths})
        prefilled = DynamicCache(config=self._model.config)
        logits = self._model(
            input_ids=ids, past_key_values=prefilled, use_cache=True, logits_to_keep=self._tensor(last)
        ).logits
        self._cache.store(self.rows, prefilled, lengths)
        self._lengths += lengths
        return _finish(logits[range(len(prompts)), [last.index(length - 1) for length in lengths]])

    def step(self, tokens: Sequence[int]) -> Step:
        self._make_room()
        rows, slots = self.rows, self._cache.slots
        spare = [0] * (slots - rows)  # Slots without a request compute along; what they write is never read.
        run = (self.programs and self.programs.step(slots)) or self._eager
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
        self._lengths = []

    def close(self) -> None:
        self.clear()
        if self.programs:
            self.programs.close()
            self.programs = None

    def compile_from(self, folder: Path) -> None:
        """Look for compiled steps, and make them once the model is used much. Only on a CPU."""
        if self._model.device.type != "cpu":
            return
        with torch.inference_mode():
            probe = DynamicCache(config=self._model.config)
            self._model(input_ids=self._tensor([[0]]), past_key_values=probe, use_cache=True)
        self.programs = StepPrograms(self._model, folder, layer_shapes(probe))

    def _tensor(self, numbers: Sequence[Any]) -> Tensor:
        return torch.tensor(numbers, device=self._model.device)


class SingleDecoder:
    """One forward for each row, with the memory the model itself makes; without one, all tokens again each time."""

    def __init__(self, model: PreTrainedModel, carried: str | None) -> None:
        self._model = model
        self._carried = carried
        self._ids: list[list[int]] = []
        self._memory: list[Any] = []

    @property
    def rows(self) -> int:
        return len(self._ids)

    @property
    def nbytes(self) -> int:
        return 0

    @property
    def use(self) -> float:
        return 0.0

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Step:
        steps = []
        for prompt in prompts:
            logits, memory = self._forward(prompt, None)
            steps.append(logits)
            self._ids.append(list(prompt))
            self._memory.append(memory)
        return _finish(torch.cat(steps))

    def step(self, tokens: Sequence[int]) -> Step:
        steps = []
        for row, token in enumerate(tokens):
            self._ids[row].append(token)
            fresh = self._ids[row] if self._carried is None else [token]
            logits, self._memory[row] = self._forward(fresh, self._memory[row])
            steps.append(logits)
        return _finish(torch.cat(steps))

    def _forward(self, ids: Sequence[int], memory: Any) -> tuple[Tensor, Any]:
        """Logits [1, vocabulary] after the last id, and the model's memory of all ids so far."""
        carried = {} if self._carried is None or memory is None else {self._carried: memory}
        inputs = torch.tensor([list(ids)], device=self._model.device)
        output = self._model(input_ids=inputs, use_cache=self._carried is not None, **carried)
        return output.logits[:, -1], output[self._carried] if self._carried else None

    def release(self, row: int, broken: bool = False) -> None:
        ids, memory = self._ids.pop(), self._memory.pop()
        if row < self.rows:
            self._ids[row], self._memory[row] = ids, memory

    def clear(self) -> None:
        self._ids, self._memory = [], []

    def close(self) -> None:
        self.clear()


class ClosedDecoder:
    """The decoder of a closed engine: it holds nothing."""

    rows = 0
    nbytes = 0
    use = 0.0

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Step:
        raise Unavailable("the model is being unloaded")

    def step(self, tokens: Sequence[int]) -> Step:
        raise Unavailable("the model is being unloaded")

    def release(self, row: int, broken: bool = False) -> None: ...

    def clear(self) -> None: ...

    def close(self) -> None: ...


def choose_decoder(loaded: CausalModel) -> tuple[Decoder, tuple[str, ...]]:
    """The fastest decoder that gives what the model's forward gives, and what a status page should say of it."""
    model = loaded.model
    candidates: list[tuple[Decoder, tuple[str, ...]]] = []
    if _fits_slots(model):
        candidates.append((SlotDecoder(model), ()))
    for name in CARRIED:
        if name in inspect.signature(model.forward).parameters:
            candidates.append((SingleDecoder(model, name), (f"plain generation, row by row: {_why_single(model)}",)))
    for decoder, notes in candidates:
        if _agrees(decoder, loaded):
            return decoder, notes
    return SingleDecoder(model, None), ("plain generation without a cache: every token costs the whole text again",)


def _fits_slots(model: PreTrainedModel) -> bool:
    """Whether each layer attends to all that came before, at positions we may give. A short trial cannot tell."""
    parameters = inspect.signature(model.forward).parameters
    rope = getattr(model.config, "rope_parameters", None) or {}
    return (
        getattr(model, "_can_compile_fullgraph", False)
        and {"past_key_values", "position_ids", "logits_to_keep", "attention_mask"} <= parameters.keys()
        # These stretch with the longest row of the batch, so that one request would change another.
        and rope.get("rope_type") not in ("dynamic", "longrope")
        and not model.config.is_encoder_decoder
        and all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)
    )


def _why_single(model: PreTrainedModel) -> str:
    parameters = inspect.signature(model.forward).parameters
    return "its KV cache does not fit a shared batch" if "past_key_values" in parameters else "no KV cache"


def _agrees(decoder: Decoder, loaded: CausalModel) -> bool:
    """Try a decoder on two short texts of unlike length against the plain forward."""
    model, top = loaded.model, loaded.vocabulary
    long, short = [[(seed * 7919 + 31 * n) % top for n in range(size)] for seed, size in ((1, 7), (2, 4))]
    if loaded.context < len(long):
        return False
    try:
        with torch.inference_mode():
            inputs = [torch.tensor([ids], device=model.device) for ids in (long, short)]
            expected = [model(input_ids=ids).logits[0].float() for ids in inputs]
            decoder.prefill([short[:1]])
            decoder.prefill([long[:4], short[:2]])
            decoder.release(0)  # The short row is now row 0, the long one row 1.
            for n in range(2):
                seen = decoder.step([short[2 + n], long[4 + n]]).logits
                wanted = torch.stack([expected[1][2 + n], expected[0][4 + n]])
                slack = (1e-3 if model.dtype == torch.float32 else 0.1) * float(wanted.abs().max())
                if not bool(((seen - wanted).abs() <= slack).all()):
                    return False
        return True
    except Exception:  # Whatever it is: this decoder is not for this model.
        return False
    finally:
        decoder.clear()
