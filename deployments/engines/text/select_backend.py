"""Which engine runs a model: the first row of a table that fits it and says what the model's plain forward says."""

import inspect
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer

from deployments.engines.probes import ProbeCache
from deployments.engines.text.decoders.decoder import Decoder
from deployments.engines.text.decoders.single import SingleDecoder
from deployments.engines.text.decoders.slots import SlotDecoder
from deployments.engines.text.loop import Loop, StepLoop
from deployments.engines.text.model import CausalModel
from deployments.engines.text.paged import PagedLoop
from deployments.engines.text.request import Chunk, Event, Generation
from deployments.engines.text.sampler import Sampling
from deployments.engines.text.stats import Meter
from deployments.engines.text.tokenizer import Tokens

TRIAL_S = 120.0
TRIAL_TOKENS = 4


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a model may be run with. `max_rows`: requests at a time, `max_waiting`: how many more may wait."""

    loaded: CausalModel
    tokens: Tokens
    max_rows: int
    max_waiting: int
    meter: Meter


@dataclass(frozen=True, slots=True)
class Backend:
    """`devices`: where it is tried. `fits`: whether to try it at all, since a short trial cannot tell everything.

    `make` gives None if the trial fails, which it leaves out where `known`.
    """

    devices: tuple[str, ...]
    fits: Callable[[PreTrainedModel], bool]
    make: Callable[[Candidate, bool], Loop | None]


def select_backend(candidate: Candidate, probes: ProbeCache) -> Loop:
    """Running, and tried."""
    model = candidate.loaded.model
    if (known := probes.recall("engine")) is not None and (
        loop := BACKENDS[int(known)].make(candidate, True)
    ) is not None:
        return loop
    for number, way in enumerate(BACKENDS):
        if model.device.type in way.devices and way.fits(model) and (loop := way.make(candidate, False)) is not None:
            probes.remember("engine", str(number))
            return loop
    raise AssertionError("the last row fits every model")


def _paged(candidate: Candidate, known: bool) -> Loop | None:
    loop = PagedLoop(candidate.loaded, candidate.max_rows, candidate.max_waiting, Meter())
    if not known and not _says_the_same(loop, candidate):
        loop.close()
        return None
    loop.meter = candidate.meter  # The trial does not count.
    return loop


def _slots(candidate: Candidate, known: bool) -> Loop | None:
    decoder = SlotDecoder(candidate.loaded.model, candidate.loaded.nbytes)
    return _stepped(decoder, "all rows in one forward", candidate, known)


def _single(carried: str, candidate: Candidate, known: bool) -> Loop | None:
    why = "its KV cache does not fit a shared batch" if carried == "past_key_values" else "no KV cache"
    decoder = SingleDecoder(candidate.loaded.model, carried)
    return _stepped(decoder, f"plain generation, row by row: {why}", candidate, known)


def _bare(candidate: Candidate, known: bool) -> Loop | None:
    """There is nothing to try: it is the plain forward."""
    note = "plain generation without a cache: every token costs the whole text again"
    return _stepped(SingleDecoder(candidate.loaded.model, None), note, candidate, True)


def _stepped(decoder: Decoder, note: str, candidate: Candidate, known: bool) -> Loop | None:
    if not known and not _agrees(decoder, candidate.loaded):
        return None
    return StepLoop(candidate.loaded, decoder, candidate.max_rows, candidate.max_waiting, candidate.meter, (note,))


def _fits_slots(model: PreTrainedModel) -> bool:
    """Whether each layer attends to all that came before, at positions we may give."""
    return (
        getattr(model, "_can_compile_fullgraph", False)
        and {"past_key_values", "position_ids", "logits_to_keep", "attention_mask"} <= _arguments(model)
        and not _stretches(model)
        and all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)
    )


def _fits_pages(model: PreTrainedModel) -> bool:
    """Whether each layer attends to all that came before or to a window of it, with the kernels that know pages."""
    return (
        getattr(model, "_supports_sdpa", False)
        and getattr(model.config, "num_attention_heads", None) is not None
        and {"past_key_values", "position_ids"} <= _arguments(model)
        and not _stretches(model)
    )


def _stretches(model: PreTrainedModel) -> bool:
    """Whether positions depend on the longest row of the batch, so that one request would change another."""
    rope = getattr(model.config, "rope_parameters", None) or {}
    return rope.get("rope_type") in ("dynamic", "longrope") or bool(model.config.is_encoder_decoder)


def _takes(name: str, model: PreTrainedModel) -> bool:
    return name in _arguments(model)


def _arguments(model: PreTrainedModel) -> set[str]:
    return set(inspect.signature(model.forward).parameters)


CUDA, CPU = ("cuda",), ("cpu",)
ANYWHERE = CUDA + CPU
CARRIED = ("past_key_values", "cache_params", "state")  # What models call the memory they hand back.
BACKENDS = (
    Backend(CUDA, _fits_pages, _paged),
    Backend(ANYWHERE, _fits_slots, _slots),
    Backend(CPU, _fits_pages, _paged),
    *(Backend(ANYWHERE, partial(_takes, name), partial(_single, name)) for name in CARRIED),
    Backend(ANYWHERE, lambda model: True, _bare),
)


def _agrees(decoder: Decoder, loaded: CausalModel) -> bool:
    """Try a decoder on two short texts of unlike length against the plain forward."""
    model = loaded.model
    long, short = _trial_texts(loaded)
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


def _says_the_same(loop: Loop, candidate: Candidate) -> bool:
    """Try a loop on the same texts: each token it gives is one that the plain forward gives, but for rounding."""
    model = candidate.loaded.model
    asked = [_trial(text, candidate) for text in _trial_texts(candidate.loaded)]
    for generation, _ in asked:
        loop.add(generation)
    if not all(ended.wait(TRIAL_S) for _, ended in asked):
        return False
    for generation, _ in asked:
        if not generation.generated:
            return False
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([generation.tokens[:-1]], device=model.device)).logits[0].float()
        logits = logits[generation.prompt_tokens - 1 :]
        given = logits.gather(1, torch.tensor(generation.tokens[-len(logits) :], device=model.device)[:, None])
        slack = (1e-3 if model.dtype == torch.float32 else 0.1) * float(logits.abs().max())
        if not bool((given[:, 0] >= logits.max(-1).values - slack).all()):
            return False
    return True


def _trial(text: list[int], candidate: Candidate) -> tuple[Generation, threading.Event]:
    ended = threading.Event()

    def emit(event: Event) -> None:
        if not isinstance(event, Chunk):
            ended.set()

    return Generation(text, TRIAL_TOKENS, Sampling(), candidate.tokens, emit, stream=False), ended


def _trial_texts(loaded: CausalModel) -> list[list[int]]:
    """Two short ones of unlike length."""
    top = loaded.vocabulary
    return [[(seed * 7919 + 31 * n) % top for n in range(size)] for seed, size in ((1, 7), (2, 4))]
