"""How tokens are computed: all rows in one forward where the model allows, else row by row.

Which decoder a model gets is found by trying: the fastest one whose logits agree with the model's plain forward.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer

from deployments.engines.text_model import CausalModel
from deployments.engines.text_slots import SlotDecoder
from deployments.engines.text_step import Decoder, Entering, Step, finish
from deployments.engines.trials import Trials
from deployments.errors import Unavailable

CARRIED = ("past_key_values", "cache_params", "state")  # What models call the memory they hand back.


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

    @property
    def shared_tokens(self) -> int:
        return 0

    @property
    def piece(self) -> int | None:
        return None

    def enter(self, prompt: Sequence[int]) -> Entering:
        raise NotImplementedError("every prompt is computed at once")

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Step:
        steps = []
        for prompt in prompts:
            logits, memory = self._forward(prompt, None)
            steps.append(logits)
            self._ids.append(list(prompt))
            self._memory.append(memory)
        return finish(torch.cat(steps))

    def step(self, tokens: Sequence[int]) -> Step:
        steps = []
        for row, token in enumerate(tokens):
            self._ids[row].append(token)
            fresh = self._ids[row] if self._carried is None else [token]
            logits, self._memory[row] = self._forward(fresh, self._memory[row])
            steps.append(logits)
        return finish(torch.cat(steps))

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
    shared_tokens = 0
    piece = None

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Step:
        raise Unavailable("the model is being unloaded")

    def enter(self, prompt: Sequence[int]) -> Entering:
        raise Unavailable("the model is being unloaded")

    def step(self, tokens: Sequence[int]) -> Step:
        raise Unavailable("the model is being unloaded")

    def release(self, row: int, broken: bool = False) -> None: ...

    def clear(self) -> None: ...

    def close(self) -> None: ...


def choose_decoder(loaded: CausalModel, trials: Trials) -> tuple[Decoder, tuple[str, ...]]:
    """The fastest decoder that gives what the model's forward gives, and what a status page should say of it."""
    model = loaded.model
    candidates: list[tuple[Decoder, tuple[str, ...]]] = []
    if _fits_slots(model):
        candidates.append((SlotDecoder(model, loaded.nbytes), ()))
    for name in CARRIED:
        if name in inspect.signature(model.forward).parameters:
            candidates.append((SingleDecoder(model, name), (f"plain generation, row by row: {_why_single(model)}",)))
    plain = "plain generation without a cache: every token costs the whole text again"
    candidates.append((SingleDecoder(model, None), (plain,)))
    if (known := trials.recall("decoder")) is None:
        agree = (index for index, (decoder, _) in enumerate(candidates[:-1]) if _agrees(decoder, loaded))
        known = trials.remember("decoder", str(next(agree, len(candidates) - 1)))
    return candidates[int(known)]


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
