"""Requests that are cancelled, engines that close: nothing is left over, whichever loop runs."""

import math
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from deployments.contract.chunk import Chunk
from deployments.contract.errors import Internal, Overloaded, ServingError, Unavailable
from deployments.contract.types import SamplingOptions
from deployments.engines.text.decoders.decoder import StepOutput
from deployments.engines.text.decoders.model import ModelFacts
from deployments.engines.text.engine import TextGenerationEngine
from deployments.engines.text.loop import DecoderLoop
from deployments.engines.text.next_tokens import NextToken
from deployments.engines.text.paged import PagedLoop
from deployments.engines.text.request import Event, Finished, GenerationRequest
from deployments.engines.text.scheduler import RequestQueue
from deployments.engines.text.stats import StatsRecorder
from tests.deployments.engines.text.decoders.played import TOKEN, TOKENIZER, Engine, PlayedDecoder
from tests.support.text_models import (
    LOADERS,
    PATIENCE_S,
    PROMPTS,
    Listener,
    ask,
    load,
)
from tests.support.until import wait_until

Load = Callable[..., TextGenerationEngine]


@pytest.fixture(params=LOADERS)
def engine(request: pytest.FixtureRequest, folder: Path) -> Iterator[TextGenerationEngine]:
    engine: TextGenerationEngine = request.param(folder, max_batch_size=4)
    yield engine
    engine.close()


class Quitter(Listener):
    """Cancels its own request when the first text arrives."""

    def __call__(self, event: Event) -> None:
        super().__call__(event)
        assert self.submitted.wait(PATIENCE_S)
        self.generation.cancel()

    def submit(self, engine: TextGenerationEngine, prompt: str) -> None:
        self.submitted = threading.Event()
        self.generation = engine.submit(prompt, 80, SamplingOptions(), self)
        self.submitted.set()


def test_a_cancelled_request_computes_no_further_token(engine: TextGenerationEngine) -> None:
    quitter = Quitter()
    quitter.submit(engine, PROMPTS[0])
    end = quitter.finished()
    first = quitter.events[0]
    assert isinstance(first, Chunk)
    assert end.finish_reason == "cancelled"
    assert end.completion_tokens == first.index
    assert engine.loop.running == 0


def test_a_waiting_request_can_be_cancelled(engine: TextGenerationEngine) -> None:
    busy = [Quitter() for _ in range(4)]
    for listener in busy:
        listener.submit(engine, PROMPTS[1])
    late = Listener()
    engine.submit(PROMPTS[0], 50, SamplingOptions(), late).cancel()
    end = late.finished()
    assert end.finish_reason == "cancelled"


@pytest.mark.slow
def test_1000_requests_with_random_cancellation_leave_no_slot_behind(
    engine: TextGenerationEngine,
) -> None:
    dice = random.Random(3)
    ask(engine, PROMPTS[0], 1)
    threads = set(threading.enumerate())
    listeners = [Listener() for _ in range(1000)]
    for listener in listeners:
        generation = engine.submit(dice.choice(PROMPTS), dice.randint(0, 6), SamplingOptions(), listener)
        if dice.random() < 0.5:
            generation.cancel()
    reasons = {listener.finished().finish_reason for listener in listeners}
    assert {"cancelled", "length"} <= reasons
    assert engine.loop.running == engine.loop.waiting == 0
    if isinstance(engine.loop, PagedLoop):
        _wait_until_no_page_is_held(engine.loop)
    else:
        assert engine.loop.use == 0
    assert all(sum(not isinstance(event, Chunk) for event in listener.events) == 1 for listener in listeners)
    assert set(threading.enumerate()) <= threads


def _wait_until_no_page_is_held(loop: PagedLoop) -> None:
    """The library lets go of cancelled requests before its next step, or within 0.1 s where there is none."""
    assert loop._manager is not None
    assert loop._manager.batch_processor is not None
    cache = loop._manager.batch_processor.cache
    wait_until(
        lambda: not any(allocator.block_table for allocator in cache.cache_allocators.values()), "no page is held"
    )
    cache.evict_cached_blocks()
    cache.pool.try_to_free_sectors()
    assert cache.compute_free_capacity() == 1


def test_requests_from_many_threads_all_end(engine: TextGenerationEngine) -> None:
    listeners = [Listener() for _ in range(32)]

    def submit(some: list[Listener]) -> None:
        for listener in some:
            engine.submit(PROMPTS[0], 4, SamplingOptions(), listener)

    threads = [threading.Thread(target=submit, args=(listeners[n::4],)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({(listener.finished(), listener.text) for listener in listeners}) == 1


@pytest.mark.parametrize("load", LOADERS)
def test_closing_under_load_fails_the_requests_and_frees_everything(load: Load, folder: Path) -> None:
    before = set(threading.enumerate())
    engine = load(folder, max_batch_size=4)
    listeners = [Listener() for _ in range(12)]
    for listener in listeners:
        engine.submit(PROMPTS[0], 80, SamplingOptions(), listener)
    assert listeners[0].started.wait(PATIENCE_S)
    engine.close()
    engine.close()
    failed = [end for end in (listener.end() for listener in listeners) if isinstance(end, ServingError)]
    assert len(failed) >= 8
    assert all(isinstance(error, Unavailable) for error in failed)
    assert engine.resident_bytes == 0
    wait_until(lambda: set(threading.enumerate()) <= before, "the engine's threads end")
    assert engine.loop.nbytes == 0
    with pytest.raises(Unavailable):
        engine.submit(PROMPTS[0], 5, SamplingOptions(), Listener())


@pytest.mark.parametrize("load", LOADERS)
def test_a_listener_may_close_the_engine(load: Load, folder: Path) -> None:
    engine = load(folder)
    closed = threading.Event()

    def close(event: object) -> None:
        engine.close()
        closed.set()

    engine.submit(PROMPTS[0], 80, SamplingOptions(), close)
    assert closed.wait(PATIENCE_S)
    wait_until(lambda: engine.resident_bytes == 0)


@pytest.mark.compiles
def test_resident_bytes_are_the_weights_and_while_it_runs_the_cache_too(folder: Path) -> None:
    engine = load(folder)
    weights = (folder / "model.safetensors").stat().st_size
    idle = engine.resident_bytes
    held: list[int] = []
    ended = threading.Event()

    def weigh(event: Event) -> None:
        (held.append(engine.resident_bytes) if isinstance(event, Chunk) else ended.set())

    engine.submit(PROMPTS[0], 20, SamplingOptions(), weigh)
    assert ended.wait(PATIENCE_S)
    after = engine.resident_bytes
    engine.close()
    assert 0.9 * weights < idle < weights + 2**18
    assert idle < max(held) == after, "what was touched stays for a while, if it is little"


@pytest.mark.parametrize("load", LOADERS)
def test_more_than_max_waiting_are_refused_with_a_time(load: Callable[..., TextGenerationEngine], folder: Path) -> None:
    engine = load(folder, max_batch_size=1, max_waiting=2)
    listeners = [Listener() for _ in range(3)]
    engine.submit(PROMPTS[0], 80, SamplingOptions(), listeners[0])
    assert listeners[0].started.wait(60)
    for listener in listeners[1:]:
        engine.submit(PROMPTS[0], 80, SamplingOptions(), listener)
    with pytest.raises(Overloaded, match="2 requests wait") as refused:
        engine.submit(PROMPTS[0], 5, SamplingOptions(), Listener())
    assert refused.value.retry_after_ms
    for listener in listeners:
        listener.finished()
    ask(engine, PROMPTS[0], 5)
    engine.close()


class Stalling(PlayedDecoder):
    """Computes a prompt once `gate` is set; the prompt [0] ends the thread."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    def prefill(self, prompts: Sequence[Sequence[int]], tokens: Sequence[int] = ()) -> StepOutput:
        if [0] in prompts:
            raise SystemExit  # which is no Exception
        assert self.gate.wait(PATIENCE_S)
        return super().prefill(prompts, tokens)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_step_that_does_not_end_is_seen_and_so_is_a_thread_that_has_ended() -> None:
    decoder, queue = Stalling(), RequestQueue(4, 100, StatsRecorder())
    facts = ModelFacts(context=100, vocabulary=100, stop_ids=frozenset({1}))
    loop = DecoderLoop(facts, decoder, queue, "")
    assert loop.busy_s == 0
    events: list[Event] = []
    loop.add(GenerationRequest([5], 1, SamplingOptions(), TOKENIZER, events.append))
    wait_until(lambda: loop.busy_s > 0)
    decoder.gate.set()
    wait_until(lambda: events and loop.busy_s == 0)
    loop.add(GenerationRequest([0], 1, SamplingOptions(), TOKENIZER, events.append))
    wait_until(lambda: loop.busy_s == math.inf)
    loop.close()
    assert loop.busy_s < math.inf


def test_of_several_tokens_a_row_takes_those_up_to_its_end() -> None:
    engine = Engine()
    short, bad, long = (engine.add([token], tokens) for token, tokens in ((2, 3), (3, 9), (4, 9)))
    engine.step()
    batch = engine.scheduler.schedule()
    assert batch is not None
    engine.scheduler.computed(batch)
    token, error = NextToken(TOKEN, None), Internal("no token")
    engine.scheduler.postprocess_verified([token] * 5 + [error] + [token] * 3, [4, 2, 3])
    assert engine.end_of(short) == Finished("length", 1, 3)
    assert engine.end_of(bad) is error
    assert engine.scheduler.running == [long]
    assert [request.generated for request in (short, bad, long)] == [3, 2, 4]
    assert engine.recorder.generated_tokens == 3 + 2 + 2 + 3
