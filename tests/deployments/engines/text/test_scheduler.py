"""Which requests a forward computes, and what a failure takes with it. The decoder is played."""

import time

import pytest

from deployments.contract.chunk import Chunk
from deployments.contract.errors import Internal, OutOfMemory, Overloaded, ServingError, Unavailable
from deployments.contract.types import SamplingOptions
from deployments.engines.text.next_tokens import next_tokens
from deployments.engines.text.request import Finished, GenerationRequest
from deployments.engines.text.scheduler import RequestQueue, Scheduler
from deployments.engines.text.stats import StatsRecorder
from tests.deployments.engines.text.decoders.played import (
    BUDGET,
    CHUNK,
    MAX_ROWS,
    OTHER,
    TOKEN,
    TOKENIZER,
    Engine,
    PlayedDecoder,
    phase,
)


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def joining(engine: Engine) -> Engine:
    """Its decoder computes rows and prompts in one forward."""
    engine.decoder.joins_rows = True
    return engine


def test_prompts_get_their_first_tokens_before_more_are_admitted(engine: Engine) -> None:
    for _ in range(2):
        engine.add([2] * 5)
        engine.add([3] * 5)
        engine.add([4] * 5)
    assert engine.phases(6) == ["prefill 2", "decode 2", "prefill 2", "decode 4", "decode 4", "decode 4"]


def test_equal_prompts_count_once_in_the_prefill_budget(engine: Engine) -> None:
    for _ in range(MAX_ROWS + 1):
        engine.add([2] * 8)
    assert engine.phases(2) == [f"prefill {MAX_ROWS}", f"decode {MAX_ROWS}"]
    assert len(engine.scheduler.queue.waiting) == 1


def test_a_long_prompt_gets_one_chunk_between_decode_steps(engine: Engine) -> None:
    engine.add([2], 9)
    engine.step()
    long = engine.add([3] * (2 * CHUNK + 1))
    assert engine.phases(7) == ["decode 1", "chunk 1", "decode 1", "chunk 1", "decode 1", "chunk 1", "decode 2"]
    assert engine.scheduler.running[-1] is long


def test_short_prompts_are_admitted_beside_a_long_one_and_a_second_long_one_waits(engine: Engine) -> None:
    for prompt in ([2] * (2 * CHUNK), [3], [4] * (2 * CHUNK), [5]):
        engine.add(prompt)
    assert engine.phases(3) == ["prefill 1", "chunk 1", "decode 1"]
    assert len(engine.scheduler.queue.waiting) == 2


def test_requests_that_end_give_their_rows_up_and_the_last_row_moves(engine: Engine) -> None:
    short, long = engine.add([2], 2), engine.add([3], 4)
    engine.phases(2)
    assert engine.scheduler.running == [long]
    assert engine.end_of(short) == Finished("length", 1, 2)
    engine.phases(3)
    assert engine.end_of(long) == Finished("length", 1, 4)
    assert engine.scheduler.idle
    assert engine.recorder.generated_tokens == 6


def test_a_cancelled_request_gets_no_further_token_wherever_it_is(engine: Engine) -> None:
    running, long = engine.add([2]), engine.add([3] * (3 * CHUNK))
    assert engine.phases(3) == ["prefill 1", "decode 1", "chunk 1"]
    waiting = engine.add([4])
    for request in (running, long, waiting):
        request.cancel()
    assert engine.phases(2) == ["nothing", "nothing"]
    assert [engine.end_of(request) for request in (running, long, waiting)] == [
        Finished("cancelled", 1, 2),
        Finished("cancelled", 3 * CHUNK, 0),
        Finished("cancelled", 1, 0),
    ]
    assert engine.scheduler.idle


def test_a_request_for_no_tokens_ends_at_once(engine: Engine) -> None:
    request = engine.add([2], 0)
    assert engine.step() is None
    assert engine.end_of(request) == Finished("length", 1, 0)


def test_of_prompts_that_fail_together_only_the_one_at_fault_fails(engine: Engine) -> None:
    good, bad, other = engine.add([2]), engine.add([OTHER]), engine.add([3])
    assert engine.phases(5) == ["prefill 3", "prefill 1", "prefill 1", "prefill 1", "decode 2"]
    assert isinstance(engine.end_of(bad), Internal)
    assert engine.scheduler.running == [good, other]


def test_prompts_that_do_not_fit_together_are_computed_apart_and_so_are_later_ones(engine: Engine) -> None:
    engine.decoder.room = BUDGET // 2
    requests = [engine.add([token] * 5, max_new_tokens=1) for token in (2, 3)]
    assert engine.phases(3) == ["prefill 2", "prefill 1", "prefill 1"]
    requests += [engine.add([token] * 5, max_new_tokens=1) for token in (4, 5)]
    assert engine.phases(4) == ["nothing", "prefill 1", "nothing", "prefill 1"]
    assert {type(engine.end_of(request)).__name__ for request in requests} == {"Finished"}


def test_a_long_prompt_that_fails_leaves_the_rows_alone(engine: Engine) -> None:
    short, long = engine.add([2], 9), engine.add([OTHER] * (CHUNK + 1))
    engine.phases(5)
    assert isinstance(engine.end_of(long), Internal)
    assert engine.scheduler.running == [short]


def test_where_memory_runs_out_only_the_longest_request_fails(engine: Engine) -> None:
    short, long = engine.add([2]), engine.add([3] * 7)
    engine.step()
    engine.scheduler.schedule()
    engine.scheduler.abandon(MemoryError())
    assert isinstance(engine.end_of(long), OutOfMemory)
    assert engine.scheduler.running == [short]
    assert engine.decoder.released == [1]


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_a_failure_after_the_forward_fails_all_that_have_a_row(engine: Engine, phase: str) -> None:
    requests = [engine.add([2]), engine.add([3])]
    if phase == "decode":
        engine.step()
    batch = engine.scheduler.schedule()
    assert batch is not None
    if phase == "prefill":
        engine.decoder.prefill([request.tokens for request in batch.requests])
    engine.scheduler.computed(batch)
    engine.scheduler.abandon(RuntimeError("sampling failed"))
    assert all(isinstance(engine.end_of(request), Internal) for request in requests)
    assert engine.decoder.rows == 0
    assert engine.scheduler.idle


def test_a_token_that_is_an_error_fails_its_request_only(engine: Engine) -> None:
    bad, good = engine.add([2]), engine.add([3])
    engine.step()
    batch = engine.scheduler.schedule()
    assert batch is not None
    engine.scheduler.computed(batch)
    error: ServingError = Internal("no token")
    _, token = next_tokens(engine.decoder.output(2), batch.requests)
    engine.scheduler.postprocess(batch, [error, token])
    assert engine.end_of(bad) is error
    assert engine.scheduler.running == [good]


def test_a_full_queue_refuses_with_the_time_to_come_again() -> None:
    engine = Engine(max_waiting=1)
    engine.add([2])
    with pytest.raises(Overloaded, match="1 requests wait") as refused:
        engine.add([3])
    assert refused.value.retry_after_ms == 1_000 * 2 // MAX_ROWS


def test_a_closed_queue_refuses_and_ends_the_wait(engine: Engine) -> None:
    engine.scheduler.queue.close()
    assert not engine.scheduler.wait()
    with pytest.raises(Unavailable):
        engine.add([2])


def test_all_requests_are_handed_back_at_the_end(engine: Engine) -> None:
    running, long = engine.add([2]), engine.add([3] * (3 * CHUNK))
    assert engine.phases(3) == ["prefill 1", "decode 1", "chunk 1"]
    assert engine.scheduler.drop_all() == [running, long]
    assert engine.scheduler.idle


def test_text_comes_in_chunks(engine: Engine) -> None:
    request = engine.add([2], 3)
    engine.phases(3)
    *chunks, end = engine.events[request]
    texts = [chunk.text for chunk in chunks if isinstance(chunk, Chunk)]
    assert "".join(texts) == TOKENIZER.decode([TOKEN] * 3)
    assert isinstance(end, Finished)
    assert end.timing
    assert request.submitted_at + end.timing.queue_s <= time.monotonic()


def test_another_decoder_goes_on_with_every_text_before_more_are_admitted(engine: Engine) -> None:
    running = [engine.add([2], 9) for _ in range(MAX_ROWS)]
    engine.phases(2)
    late = engine.add([3])
    before, engine.decoder = engine.decoder, PlayedDecoder()
    engine.scheduler.move_to(engine.decoder)
    assert engine.phases(5) == [*["prefill 1"] * MAX_ROWS, f"decode {MAX_ROWS}"]
    assert engine.scheduler.running == running
    assert [request.generated for request in (*running, late)] == [4] * MAX_ROWS + [0]
    assert engine.decoder.lengths == [3] * MAX_ROWS
    assert before.closed


def test_an_idle_loop_is_woken_for_another_decoder(engine: Engine) -> None:
    engine.scheduler.move_to(PlayedDecoder())
    assert engine.scheduler.wait()
    assert engine.step() is None
    assert engine.scheduler.idle
    assert engine.decoder.closed


def test_rows_get_their_tokens_in_the_forward_of_prompts_where_the_decoder_can(joining: Engine) -> None:
    running = joining.add([2], 9)
    assert joining.phases(3) == ["prefill 1", "nothing", "decode 1"]
    joining.add([3] * BUDGET, 9)
    last = joining.add([4] * BUDGET, 9)
    assert joining.phases(4) == ["prefill 1, decode 1", "nothing", "prefill 1, decode 2", "nothing"]
    assert joining.phases(2) == ["decode 3", "decode 3"]
    assert (running.generated, last.generated) == (6, 3)


def test_rows_get_a_token_with_each_chunk_of_a_long_prompt(joining: Engine) -> None:
    running = joining.add([2], 9)
    joining.phases(2)
    long, short = joining.add([3] * (2 * CHUNK + 1), 9), joining.add([4], 9)
    assert joining.phases(3) == ["prefill 1, decode 1", "chunk 1, decode 2", "nothing"]
    assert joining.phases(2) == ["chunk 1, decode 2", "nothing"]
    assert joining.phases(3) == ["chunk 1, decode 2", "nothing", "decode 3"]
    assert joining.scheduler.running == [running, short, long]
    assert [request.generated for request in (running, short, long)] == [6, 5, 2]


def test_a_prompt_whose_tokens_are_scored_is_computed_without_the_rows(joining: Engine) -> None:
    joining.add([2], 9)
    joining.phases(2)
    sampling = SamplingOptions(logprobs=0, prompt_logprobs=True)
    joining.scheduler.queue.add(GenerationRequest([3] * CHUNK, 5, sampling, TOKENIZER, lambda event: None))
    assert joining.phases(2) == ["chunk 1", "decode 2"]


@pytest.mark.parametrize("length", [1, CHUNK + 1])
def test_a_prompt_that_fails_beside_rows_leaves_them_as_they_were(joining: Engine, length: int) -> None:
    running = joining.add([2], 9)
    joining.phases(2)
    bad = joining.add([OTHER] * length)
    joining.phases(2 * -(-length // CHUNK))
    assert isinstance(joining.end_of(bad), Internal)
    assert joining.scheduler.running == [running]
    tokens = running.generated
    assert joining.phases(2)[-1] == "decode 1"
    assert running.generated > tokens


def test_where_sampling_fails_after_a_chunk_the_rows_fail_that_have_its_token(joining: Engine) -> None:
    running, long = joining.add([2], 9), joining.add([3] * (2 * CHUNK))
    joining.phases(2)
    batch = joining.scheduler.schedule()
    assert batch is not None
    assert batch.chunked is not None
    batch.chunked.send([TOKEN])
    joining.scheduler.computed(batch)
    joining.scheduler.abandon(RuntimeError("sampling failed"))
    assert all(isinstance(joining.end_of(request), Internal) for request in (running, long))
    assert joining.scheduler.idle


def test_where_proposals_count_tokens_rows_have_forwards_of_their_own() -> None:
    decoder, queue = PlayedDecoder(), RequestQueue(MAX_ROWS, 100, StatsRecorder())
    decoder.joins_rows = True
    scheduler = Scheduler(decoder, queue, frozenset(), joins_rows=False)
    queue.add(GenerationRequest([2], 5, SamplingOptions(), TOKENIZER, lambda event: None))
    assert phase(scheduler.schedule()) == "prefill 1"
    assert scheduler._rows_done is False
