"""Which loop and decoder run a model: the first row of a table that takes it and matches the model's plain forward."""

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

import torch

from deployments.contract.chunk import Chunk
from deployments.contract.errors import ModelLoadFailed, ServingError
from deployments.contract.types import SamplingOptions
from deployments.engines.probes import ProbeCache
from deployments.engines.text.decoders.model import ROUNDED, CausalModel, ModelFacts, takes
from deployments.engines.text.decoders.probe import Probe, probe_prompts, tolerance
from deployments.engines.text.decoders.single import SingleDecoder
from deployments.engines.text.loop import DecoderLoop, EngineLoop
from deployments.engines.text.openvino.artifacts import Converted, key_of, read_or_make
from deployments.engines.text.openvino.compiled import About
from deployments.engines.text.openvino.paged_decoder import PagedDecoder
from deployments.engines.text.paged import PagedLoop
from deployments.engines.text.request import Event, GenerationRequest
from deployments.engines.text.scheduler import RequestQueue
from deployments.engines.text.speculation.draft_model import DraftFolder, load_draft
from deployments.engines.text.speculation.prompt_lookup import PromptLookup
from deployments.engines.text.speculation.proposer import Proposer
from deployments.engines.text.stats import StatsRecorder
from deployments.engines.text.tokenizer import Tokenizer
from deployments.system.artifact_cache import ArtifactCache
from deployments.system.worker_process import RequestFailed, WorkerFailed

log = logging.getLogger(__name__)

Facts = TypeVar("Facts", bound=ModelFacts)

PROBE_S = 120.0
PROBE_TOKENS = 4
BACKGROUND_BYTES = 1 << 30
"""A load of larger weights waits for their conversion: with it they would be in memory three times."""


@dataclass(frozen=True)
class Candidate:
    """A model's folder, and the queue of its requests.

    `cache`: of converted models. `in_background`: plain generation answers while the model is converted.
    `prompt_lookup`: whether texts propose their own tokens. `draft`: the model that proposes them.
    """

    folder: Path
    device: str
    dtype: str | None
    tokenizer: Tokenizer
    queue: RequestQueue
    cache: ArtifactCache
    in_background: bool = False
    prompt_lookup: bool = False
    draft: DraftFolder | None = None

    @cached_property
    def key(self) -> str:
        """Of the converted model in the cache."""
        return key_of(self.folder, self.dtype)

    def proposer(self, vocabulary: int) -> Proposer | None:
        """Raises ModelLoadFailed."""
        if self.draft:
            return load_draft(self.draft, vocabulary, self.queue.max_rows, self.cache)
        return PromptLookup() if self.prompt_lookup else None

    def conversion(self) -> Callable[[], Converted]:
        """Knows nothing of the plain model."""
        return partial(read_or_make, self.folder, self.dtype, torch.get_num_threads(), self.cache, self.key)

    @property
    def is_converted_later(self) -> bool:
        size = sum(file.stat().st_size for file in self.folder.glob("*.safetensors"))
        light = size <= BACKGROUND_BYTES and self.dtype not in ROUNDED and not self.draft
        return self.in_background and light and self.key not in self.cache

    @cached_property
    def loaded(self) -> CausalModel:
        """Read when the first row needs it. Raises ModelLoadFailed."""
        return self.spelled(CausalModel.load(self.folder, self.device, self.dtype))

    def spelled(self, facts: Facts) -> Facts:
        """Of a model with this tokenizer. Raises ModelLoadFailed where it is not the model's."""
        self.tokenizer.check(facts.vocabulary)
        return facts.ending_at(self.tokenizer.stop_ids)


@dataclass(frozen=True, slots=True)
class Selected:
    """The loop, running, and facts of the model."""

    loop: EngineLoop
    facts: ModelFacts
    weight_bytes: int


@dataclass(frozen=True, slots=True)
class Backend:
    """`device`: where it is tried; None for anywhere. With True `make` does not probe: an earlier load did.

    `make` gives None for a model that it does not take, and may raise whatever it likes for one.
    """

    device: str | None
    make: Callable[[Candidate, bool], Selected | None]


def select_backend(candidate: Candidate, probes: ProbeCache) -> Selected:
    """Raises ModelLoadFailed, and what the last row raised."""
    known = probes.recall("engine")
    rows = [
        (number, backend)
        for number, backend in enumerate(BACKENDS)
        if backend.device in (None, candidate.device) and (known is None or number >= int(known))
    ]
    if rows[0][1] is OPENVINO and candidate.is_converted_later and candidate.loaded:
        with suppress(ModelLoadFailed):  # Plain generation does not compute it, but OpenVINO may.
            selected, plain, _ = _first(candidate, rows[1:], known)
            by_openvino = {True: str(rows[0][0]), False: str(plain)}
            _convert_in_background(
                candidate, selected.loop, lambda converted: probes.remember("engine", by_openvino[converted])
            )
            return selected
    selected, number, failure = _first(candidate, rows, known)
    if not _of_the_disk(failure):
        probes.remember("engine", str(number), known)
    return selected


def _first(
    candidate: Candidate, rows: Sequence[tuple[int, Backend]], known: str | None
) -> tuple[Selected, int, Exception | None]:
    """What the last row that failed raised goes with it."""
    last: Exception | None = None
    for number, backend in rows:
        try:
            selected = backend.make(candidate, known == str(number))
        except ServingError:
            raise
        except Exception as failure:  # Whatever it is: this row is not for this model.
            log.info("%s: not by row %d: %s: %s", candidate.folder.name, number, type(failure).__name__, failure)
            last = failure
            continue
        if selected:
            return selected, number, last
    raise last or ModelLoadFailed("no engine here computes this model")


def _convert_in_background(candidate: Candidate, loop: EngineLoop, settle: Callable[[bool], object]) -> None:
    """OpenVINO goes on with the texts of `loop` once the model is converted; `settle` gets whether it does."""
    assert isinstance(loop, DecoderLoop)
    plain, max_rows = loop.info, candidate.queue.max_rows
    loop.info = f"{plain}, being converted"
    loop.settled.clear()
    make = candidate.conversion()

    def convert() -> None:
        try:
            compiled, about = make()
            decoder = PagedDecoder(compiled, about.weight_bytes, max_rows, loop.max_length)
            loop.move_to(decoder, _info(about))
            settle(True)
        except Exception as failure:
            log.info("not by OpenVINO: %s: %s", type(failure).__name__, failure)
            loop.info = plain
            if not (_of_the_disk(failure) or isinstance(failure, WorkerFailed)):  # Another attempt may succeed.
                settle(False)
        loop.settled.set()

    threading.Thread(target=convert, name="convert", daemon=True).start()


def _info(about: About) -> str:
    return f"paged attention of OpenVINO, {about.precision}"


def _of_the_disk(failure: Exception | None) -> bool:
    """Whether the cache was full or could not be written: the next load tries it again."""
    in_child = isinstance(failure, RequestFailed) and str(failure).startswith("OSError")
    return in_child or isinstance(failure, OSError)


def _openvino(candidate: Candidate, known: bool) -> Selected | None:
    queue = candidate.queue
    try:
        compiled, about = candidate.conversion()()
    except RequestFailed as failure:
        kind, _, message = str(failure).partition(": ")
        if kind == ModelLoadFailed.__name__:
            raise ModelLoadFailed(message) from None
        raise
    facts = candidate.spelled(about.facts)
    proposer = candidate.proposer(facts.vocabulary)
    decoder = PagedDecoder(compiled, about.weight_bytes, queue.max_rows, facts.context)
    loop = DecoderLoop(facts, decoder, queue, _info(about), proposer)
    return Selected(loop, facts, about.weight_bytes + (proposer.weight_bytes if proposer else 0))


def _paged(candidate: Candidate, known: bool) -> Selected | None:
    if not _fits_pages(candidate.loaded):
        return None
    queue = RequestQueue(candidate.queue.max_rows, candidate.queue.max_waiting, StatsRecorder())
    loop = PagedLoop(candidate.loaded, queue)
    if not known and not _loop_matches(loop, candidate):
        loop.close()
        return None
    queue.recorder = candidate.queue.recorder  # The probe does not count.
    return Selected(loop, candidate.loaded, candidate.loaded.nbytes)


def _single(state_name: str | None, candidate: Candidate, known: bool) -> Selected | None:
    loaded = candidate.loaded
    if candidate.dtype in ROUNDED:
        raise ModelLoadFailed(f"{candidate.dtype} is computed by OpenVINO on a CPU, which does not take this model")
    if state_name is not None and not takes(loaded.model, state_name):
        return None
    decoder = SingleDecoder(loaded.model, state_name)
    probe = None if known else Probe.of(loaded)
    if probe and state_name is None and probe.reads_ahead(loaded):
        raise ModelLoadFailed("the model reads texts in both directions, it does not continue them")
    if probe and state_name is None and not probe.generates(decoder, loaded):
        raise ModelLoadFailed("transformers generates other texts with this model than its forward gives")
    # Without a state it is the plain forward itself.
    if probe and state_name is not None and not probe.matches(decoder):
        return None
    info = {
        "past_key_values": "plain generation, row by row: its KV cache does not fit a shared batch",
        None: "plain generation without a cache: every token costs the whole text again",
    }.get(state_name, "plain generation, row by row: no KV cache")
    # Of use once the model is converted.
    proposer = PromptLookup() if candidate.prompt_lookup else None
    return Selected(DecoderLoop(loaded, decoder, candidate.queue, info, proposer), loaded, loaded.nbytes)


def _fits_pages(loaded: CausalModel) -> bool:
    """Whether each layer attends to all that came before or to a window of it, with the kernels that know pages."""
    return (
        getattr(loaded.model, "_supports_sdpa", False)
        and getattr(loaded.model.config, "num_attention_heads", None) is not None
        and takes(loaded.model, "past_key_values", "position_ids")
        and not loaded.positions_depend_on_length
    )


STATES = ("past_key_values", "cache_params", "state", None)  # What models call the state that they return.
OPENVINO = Backend("cpu", _openvino)
BACKENDS = (
    OPENVINO,
    Backend("cuda", _paged),
    *(Backend(None, partial(_single, name)) for name in STATES),
)


def _loop_matches(loop: EngineLoop, candidate: Candidate) -> bool:
    """Run a loop on short prompts: each of its tokens is one that the plain forward gives, but for rounding."""
    loaded = candidate.loaded
    probes = [_probe(prompt, candidate) for prompt in probe_prompts(loaded.vocabulary, loaded.context - PROBE_TOKENS)]
    for request, _ in probes:
        loop.add(request)
    if not all(ended.wait(PROBE_S) for _, ended in probes):
        return False
    for request, _ in probes:
        if not request.generated:
            return False
        with torch.inference_mode():
            inputs = torch.tensor([request.tokens[:-1]], device=loaded.model.device)
            logits = loaded.model(input_ids=inputs).logits[0].float()[request.prompt_tokens - 1 :]
        chosen = logits.gather(1, torch.tensor(request.tokens[-len(logits) :], device=logits.device)[:, None])
        if not bool((chosen[:, 0] >= logits.max(-1).values - tolerance(loaded.model.dtype, logits)).all()):
            return False
    return True


def _probe(prompt: list[int], candidate: Candidate) -> tuple[GenerationRequest, threading.Event]:
    ended = threading.Event()

    def emit(event: Event) -> None:
        if not isinstance(event, Chunk):
            ended.set()

    return GenerationRequest(prompt, PROBE_TOKENS, SamplingOptions(), candidate.tokenizer, emit, stream=False), ended
