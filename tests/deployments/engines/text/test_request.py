"""What a caller gets of its request: chunks that grow, log-probabilities, one end."""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from deployments.contract.chunk import Chunk
from deployments.contract.errors import InvalidRequest
from deployments.contract.text_generation import PromptToken
from deployments.contract.types import SamplingOptions
from deployments.engines.text.decoders.decoder import SCORED
from deployments.engines.text.engine import TextGenerationEngine
from deployments.engines.text.request import LEAST_LOGPROB, Event, Finished, GenerationRequest
from deployments.engines.text.sampler import Logprobs
from deployments.engines.text.tokenizer import Tokenizer
from tests.support import sweep
from tests.support.text_models import (
    LOADERS,
    PROMPTS,
    VOCABULARY,
    Listener,
    Reference,
    ask,
    byte_level_tokenizer,
    load_single,
    save_long_model,
)
from tests.support.until import wait_until


@pytest.fixture(scope="module", params=LOADERS)
def engine(request: pytest.FixtureRequest, folder: Path) -> Iterator[TextGenerationEngine]:
    engine: TextGenerationEngine = request.param(folder)
    yield engine
    engine.close()


def chunks(listener: Listener) -> list[Chunk]:
    return [event for event in listener.events if isinstance(event, Chunk)]


@pytest.mark.parametrize("stream", [True, False])
def test_log_probabilities_are_those_of_the_model(engine: TextGenerationEngine, folder: Path, stream: bool) -> None:
    listener = Listener()
    engine.submit(PROMPTS[3], 12, SamplingOptions(logprobs=3), listener, stream)
    listener.finished()
    told = list(itertools.chain.from_iterable(chunk.logprobs for chunk in chunks(listener)))
    reference = Reference(folder)
    ids = reference.tokenizer(PROMPTS[3]).input_ids
    id_of = {bytes(engine._tokenizer.token_bytes(token)): token for token in range(VOCABULARY)}
    tokens = [id_of[bytes(one.utf8)] for one in told]
    logits = reference.model(torch.tensor([[*ids, *tokens]])).logits[0, len(ids) - 1 : -1]
    expected = logits.log_softmax(-1)
    assert len(tokens) == 12
    assert torch.allclose(torch.tensor([one.logprob for one in told]), expected[range(12), tokens], atol=1e-4)
    assert [[id_of[bytes(other.utf8)] for other in one.top] for one in told] == expected.topk(3).indices.tolist()
    assert b"".join(bytes(one.utf8) for one in told).decode(errors="replace") == listener.text


def test_there_are_no_log_probabilities_unless_asked_for(engine: TextGenerationEngine) -> None:
    assert not any(chunk.logprobs for chunk in chunks(ask(engine, PROMPTS[0], 5)))
    told = chunks(ask(engine, PROMPTS[0], 5, SamplingOptions(logprobs=0)))
    assert [one.top for chunk in told for one in chunk.logprobs] == [[]] * 5


SAMPLINGS = [SamplingOptions(), SamplingOptions(stop=["zzz", "e"]), SamplingOptions(temperature=1.0, seed=3)]


@pytest.mark.parametrize("sampling", sweep(SAMPLINGS, SAMPLINGS[1]))
def test_all_text_at_once_is_the_streamed_text(engine: TextGenerationEngine, sampling: SamplingOptions) -> None:
    for prompt in PROMPTS:
        whole, streamed = Listener(), ask(engine, prompt, 40, sampling)
        engine.submit(prompt, 40, sampling, whole, stream=False)
        assert whole.finished() == streamed.finished()
        assert whole.text == streamed.text
        assert len(whole.events) <= 2


def test_chunks_count_tokens_and_are_never_empty(engine: TextGenerationEngine) -> None:
    events = ask(engine, PROMPTS[1], 30).events
    chunks = [event for event in events if isinstance(event, Chunk)]
    assert len(events) == len(chunks) + 1
    assert all(chunk.text for chunk in chunks)
    assert sorted({chunk.index for chunk in chunks})[-1] <= 30


def test_a_stop_string_ends_the_text_and_is_no_part_of_it(engine: TextGenerationEngine, reference: Reference) -> None:
    whole, _ = reference.continuation(PROMPTS[0], 60)
    for start, size in ((3, 2), (7, 5), (20, 9)):
        stop = whole[start : start + size]
        listener = ask(engine, PROMPTS[0], 60, SamplingOptions(stop=["never said", stop]))
        assert listener.text == whole[: whole.index(stop)]
        assert listener.finished().finish_reason == "stop"


def test_text_that_was_held_back_for_a_stop_string_comes_at_the_end(
    engine: TextGenerationEngine, reference: Reference
) -> None:
    whole, _ = reference.continuation(PROMPTS[0], 30)
    listener = ask(engine, PROMPTS[0], 30, SamplingOptions(stop=[whole[-6:] + "\x00"]))
    assert listener.text == whole


def test_a_listener_that_raises_loses_only_its_own_request(engine: TextGenerationEngine, reference: Reference) -> None:
    def broken(event: object) -> None:
        raise RuntimeError("a listener's own mistake")

    engine.submit(PROMPTS[1], 50, SamplingOptions(), broken)
    assert reference.agrees(PROMPTS[0], 20, ask(engine, PROMPTS[0], 20).text)


def test_an_impossible_token_has_the_log_probability_that_openai_gives_it() -> None:
    events: list[Event] = []
    tokenizer = Tokenizer(byte_level_tokenizer())
    request = GenerationRequest([3], 1, SamplingOptions(logprobs=1), tokenizer, events.append)
    assert request.append(40, False, Logprobs(-math.inf, ((41, -0.5),))) == "length"
    [chunk] = events
    assert isinstance(chunk, Chunk)
    [logprob] = chunk.logprobs
    assert (logprob.logprob, logprob.top[0].logprob) == (LEAST_LOGPROB, -0.5)
    assert bytes(logprob.utf8) == tokenizer.token_bytes(40)


def test_a_request_whose_emit_raises_is_cancelled() -> None:
    def broken(event: Event) -> None:
        raise RuntimeError("a caller's own mistake")

    request = GenerationRequest([3], 9, SamplingOptions(), Tokenizer(byte_level_tokenizer()), broken)
    request.append(40, False)
    assert request.cancelled


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("stop", [None, ["never said"]])
def test_a_request_whose_time_is_over_ends_with_the_text_that_there_is(stream: bool, stop: list[str] | None) -> None:
    events: list[Event] = []
    tokenizer = Tokenizer(byte_level_tokenizer())
    request = GenerationRequest([3], 9, SamplingOptions(stop=stop), tokenizer, events.append, stream)
    for token in (40, 41, 42):
        assert request.append(token, False) is None
    request.end_early()
    assert request.cancelled
    request.finish("cancelled")
    *chunks, end = events
    expected = b"".join(map(tokenizer.token_bytes, (40, 41, 42))).decode()
    assert "".join(chunk.text for chunk in chunks if isinstance(chunk, Chunk)) == expected
    assert isinstance(end, Finished)
    assert (end.finish_reason, end.completion_tokens) == ("deadline", 3)


def test_a_request_whose_time_is_over_before_its_first_token_is_cancelled() -> None:
    events: list[Event] = []
    request = GenerationRequest([3], 9, SamplingOptions(), Tokenizer(byte_level_tokenizer()), events.append)
    request.end_early()
    request.finish("cancelled")
    assert [event.finish_reason for event in events if isinstance(event, Finished)] == ["cancelled"]


def test_an_engine_ends_a_request_whose_time_is_over(engine: TextGenerationEngine, reference: Reference) -> None:
    listener, submitted = Listener(), list[GenerationRequest]()

    def end_at_the_first_chunk(event: Event) -> None:
        if isinstance(event, Chunk):
            wait_until(lambda: submitted)
            submitted[0].end_early()
        listener(event)

    submitted.append(engine.submit(PROMPTS[0], 60, SamplingOptions(ignore_eos=True), end_at_the_first_chunk))
    end = listener.finished()
    assert end.finish_reason == "deadline"
    assert 0 < end.completion_tokens < 60
    assert reference.agrees(PROMPTS[0], end.completion_tokens, listener.text)


def test_a_text_ends_at_the_stop_tokens_of_its_request_and_goes_on_after_the_model_s_own(
    engine: TextGenerationEngine, folder: Path
) -> None:
    said = tokens_of(engine, PROMPTS[0], 20)
    stop = next(token for n, token in enumerate(said) if n > 3 and token not in said[:n])
    end = ask(engine, PROMPTS[0], 20, SamplingOptions(stop_token_ids=[stop, 4_000]))
    assert (end.finished().finish_reason, end.finished().completion_tokens) == ("stop", said.index(stop) + 1)
    bias = {1: 100.0}  # </s>
    ended = ask(engine, PROMPTS[0], 5, SamplingOptions(logit_bias=bias)).finished()
    assert (ended.finish_reason, ended.completion_tokens) == ("stop", 1)
    ignored = ask(engine, PROMPTS[0], 5, SamplingOptions(logit_bias=bias, ignore_eos=True)).finished()
    assert (ignored.finish_reason, ignored.completion_tokens) == ("length", 5)


@pytest.mark.parametrize(
    "end", [{"logit_bias": {1: 100.0}}, {"stop_token_ids": list(range(256))}, {"stop": ["e", "o", "a"]}]
)
def test_a_text_does_not_end_before_its_least_number_of_tokens(
    engine: TextGenerationEngine, end: dict[str, Any]
) -> None:
    def tokens(**options: object) -> int:
        sampling = SamplingOptions.model_validate({**end, **options})
        return ask(engine, PROMPTS[0], 60, sampling).finished().completion_tokens

    assert tokens() < 25 <= tokens(min_tokens=25) < 60


def test_a_bias_for_a_token_that_the_model_does_not_have_is_refused(engine: TextGenerationEngine) -> None:
    with pytest.raises(InvalidRequest, match=f"one of the model's {VOCABULARY}"):
        ask(engine, "a", 1, SamplingOptions(logit_bias={VOCABULARY: 1.0}))


def tokens_of(engine: TextGenerationEngine, prompt: str, tokens: int) -> list[int]:
    id_of = {bytes(engine._tokenizer.token_bytes(token)): token for token in range(VOCABULARY)}
    told = chunks(ask(engine, prompt, tokens, SamplingOptions(logprobs=0)))
    return [id_of[bytes(one.utf8)] for chunk in told for one in chunk.logprobs]


@pytest.fixture(scope="module", params=[*LOADERS, load_single])
def scoring(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[TextGenerationEngine, Reference]]:
    """Every engine, with a model for long texts."""
    folder = save_long_model(tmp_path_factory.mktemp("long"))
    engine: TextGenerationEngine = request.param(folder)
    yield engine, Reference(folder)
    engine.close()


def told_of_prompt(listener: Listener) -> list[PromptToken]:
    """The log-probabilities of the prompt: they are in the first chunk, which has no text."""
    listener.finished()
    first, *others = chunks(listener)
    assert (first.text, first.index) == ("", 0)
    assert not any(chunk.prompt_logprobs for chunk in others)
    return list(first.prompt_logprobs)


@pytest.mark.parametrize("length", [1, 20, SCORED, SCORED + 1, 5 * SCORED - 3])
@pytest.mark.parametrize("tokens", [0, 3])
@pytest.mark.parametrize("stream", [True, False])
def test_log_probabilities_of_the_prompt_are_those_of_the_model(
    scoring: tuple[TextGenerationEngine, Reference], length: int, tokens: int, stream: bool
) -> None:
    engine, reference = scoring
    listener, plain = Listener(), Listener()
    ids = [(5 + 31 * n) % VOCABULARY for n in range(length)]
    engine.submit(ids, tokens, SamplingOptions(logprobs=2, prompt_logprobs=True), listener, stream)
    engine.submit(ids, tokens, SamplingOptions(logprobs=2), plain, stream)
    first, *others = told_of_prompt(listener)
    with torch.inference_mode():
        expected = reference.model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    assert (first.logprob, first.top) == (None, [])
    found = torch.tensor([one.logprob for one in others])
    assert torch.allclose(found, expected[range(length - 1), ids[1:]], atol=1e-4)
    best = torch.tensor([[other.logprob for other in one.top] for one in others])
    assert torch.allclose(best.reshape(-1, 2), expected.topk(2).values, atol=1e-4)
    assert [bytes(one.utf8) for one in (first, *others)] == [engine._tokenizer.token_bytes(token) for token in ids]
    plain.finished()
    assert listener.text == plain.text
    end = listener.finished()
    assert (end.prompt_tokens, end.completion_tokens, end.finish_reason) == (length, tokens, "length")


def test_prompts_are_scored_beside_each_other_and_beside_texts(
    scoring: tuple[TextGenerationEngine, Reference],
) -> None:
    engine, reference = scoring
    texts, prompts = [Listener() for _ in range(3)], [Listener() for _ in range(6)]
    ids = [[(seed + 31 * n) % VOCABULARY for n in range(SCORED + seed)] for seed in range(6)]
    for listener in texts:
        engine.submit(PROMPTS[0], 60, SamplingOptions(), listener)
    for one, listener in zip(ids, prompts, strict=True):
        engine.submit(one, 1, SamplingOptions(logprobs=0, prompt_logprobs=True), listener)
    for one, listener in zip(ids, prompts, strict=True):
        with torch.inference_mode():
            expected = reference.model(torch.tensor([one])).logits[0, :-1].log_softmax(-1)
        found = torch.tensor([token.logprob for token in told_of_prompt(listener)[1:]])
        assert torch.allclose(found, expected[range(len(one) - 1), one[1:]], atol=1e-4)
    for listener in texts:
        listener.finished()
        assert reference.agrees(PROMPTS[0], 60, listener.text)
