"""Which loop and decoder run a model: the first row of a table that fits it and matches the model's plain forward."""

import inspect
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer

from deployments.contract.types import Chunk, SamplingOptions
from deployments.engines.probes import ProbeCache
from deployments.engines.text.decoders.decoder import Decoder
from deployments.engines.text.decoders.single import SingleDecoder
from deployments.engines.text.decoders.slots import SlotDecoder
from deployments.engines.text.loop import DecoderLoop, EngineLoop
from deployments.engines.text.model import CausalModel
from deployments.engines.text.paged import PagedLoop
from deployments.engines.text.request import Event, GenerationRequest
from deployments.engines.text.scheduler import RequestQueue
from deployments.engines.text.stats import StatsRecorder
from deployments.engines.text.tokenizer import Tokenizer

PROBE_S = 120.0
PROBE_TOKENS = 4


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model, and the queue of its requests."""

    loaded: CausalModel
    tokenizer: Tokenizer
    queue: RequestQueue


@dataclass(frozen=True, slots=True)
class Backend:
    """`devices`: where it is probed. `fits`: whether to probe it at all, since a short probe cannot see everything.

    `make` gives None if the probe fails. With True it does not probe: an earlier load did.
    """

    devices: tuple[str, ...]
    fits: Callable[[PreTrainedModel], bool]
    make: Callable[[Candidate, bool], EngineLoop | None]


def select_backend(candidate: Candidate, probes: ProbeCache) -> EngineLoop:
    """The loop, running."""
    model = candidate.loaded.model
    known = probes.recall("engine")
    if known is not None and (loop := BACKENDS[int(known)].make(candidate, True)):
        return loop
    for number, backend in enumerate(BACKENDS):
        if model.device.type not in backend.devices or not backend.fits(model):
            continue
        if loop := backend.make(candidate, False):
            probes.remember("engine", str(number))
            return loop
    raise AssertionError("the last row fits every model")


def _paged(candidate: Candidate, known: bool) -> EngineLoop | None:
    queue = RequestQueue(candidate.queue.max_rows, candidate.queue.max_waiting, StatsRecorder())
    loop = PagedLoop(candidate.loaded, queue)
    if not known and not _loop_matches(loop, candidate):
        loop.close()
        return None
    queue.recorder = candidate.queue.recorder  # The probe does not count.
    return loop


def _slots(candidate: Candidate, known: bool) -> EngineLoop | None:
    decoder = SlotDecoder(candidate.loaded.model, candidate.loaded.nbytes)
    return _with_decoder(decoder, "all rows in one forward", candidate, known)


def _single(state_name: str | None, candidate: Candidate, known: bool) -> EngineLoop | None:
    info = {
        "past_key_values": "plain generation, row by row: its KV cache does not fit a shared batch",
        None: "plain generation without a cache: every token costs the whole text again",
    }.get(state_name, "plain generation, row by row: no KV cache")
    # Without a state there is nothing to probe: it is the plain forward.
    known = known or state_name is None
    return _with_decoder(SingleDecoder(candidate.loaded.model, state_name), info, candidate, known)


def _with_decoder(decoder: Decoder, info: str, candidate: Candidate, known: bool) -> EngineLoop | None:
    if known or _decoder_matches(decoder, candidate.loaded):
        return DecoderLoop(candidate.loaded, decoder, candidate.queue, info)
    return None


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
    """Whether positions depend on the longest row of the batch, so that one request changes another."""
    rope = getattr(model.config, "rope_parameters", None) or {}
    return rope.get("rope_type") in ("dynamic", "longrope") or bool(model.config.is_encoder_decoder)


def _takes(name: str, model: PreTrainedModel) -> bool:
    return name in _arguments(model)


def _arguments(model: PreTrainedModel) -> set[str]:
    return set(inspect.signature(model.forward).parameters)


CUDA, CPU = ("cuda",), ("cpu",)
ANYWHERE = CUDA + CPU
STATES = ("past_key_values", "cache_params", "state")  # What models call the state that they return.
BACKENDS = (
    Backend(CUDA, _fits_pages, _paged),
    Backend(ANYWHERE, _fits_slots, _slots),
    Backend(CPU, _fits_pages, _paged),
    *(Backend(ANYWHERE, partial(_takes, name), partial(_single, name)) for name in STATES),
    Backend(ANYWHERE, lambda model: True, partial(_single, None)),
)


def _decoder_matches(decoder: Decoder, loaded: CausalModel) -> bool:
    """Run a decoder on two short prompts of unlike length, and compare its logits with the plain forward's."""
    model = loaded.model
    long, short = _probe_prompts(loaded)
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
                logits = decoder.step([short[2 + n], long[4 + n]]).logits
                wanted = torch.stack([expected[1][2 + n], expected[0][4 + n]])
                if not bool(((logits - wanted).abs() <= _tolerance(model, wanted)).all()):
                    return False
        return True
    except Exception:  # Whatever it is: this decoder is not for this model.
        return False
    finally:
        decoder.clear()


def _loop_matches(loop: EngineLoop, candidate: Candidate) -> bool:
    """Run a loop on the same prompts: each of its tokens is one that the plain forward gives, but for rounding."""
    model = candidate.loaded.model
    probes = [_probe(prompt, candidate) for prompt in _probe_prompts(candidate.loaded)]
    for request, _ in probes:
        loop.add(request)
    if not all(ended.wait(PROBE_S) for _, ended in probes):
        return False
    for request, _ in probes:
        if not request.generated:
            return False
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([request.tokens[:-1]], device=model.device)).logits[0].float()
        logits = logits[request.prompt_tokens - 1 :]
        chosen = logits.gather(1, torch.tensor(request.tokens[-len(logits) :], device=model.device)[:, None])
        if not bool((chosen[:, 0] >= logits.max(-1).values - _tolerance(model, logits)).all()):
            return False
    return True


def _tolerance(model: PreTrainedModel, logits: Tensor) -> float:
    return (1e-3 if model.dtype == torch.float32 else 0.1) * float(logits.abs().max())


def _probe(prompt: list[int], candidate: Candidate) -> tuple[GenerationRequest, threading.Event]:
    ended = threading.Event()

    def emit(event: Event) -> None:
        if not isinstance(event, Chunk):
            ended.set()

    return GenerationRequest(prompt, PROBE_TOKENS, SamplingOptions(), candidate.tokenizer, emit, stream=False), ended


def _probe_prompts(loaded: CausalModel) -> list[list[int]]:
    """Two short ones of unlike length."""
    top = loaded.vocabulary
    return [[(seed * 7919 + 31 * n) % top for n in range(size)] for seed, size in ((1, 7), (2, 4))]
