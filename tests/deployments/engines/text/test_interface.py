"""What a caller may ask beyond text: log-probabilities, token ids, all text at once; and when it is turned away."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from deployments.contract.errors import InvalidRequest, Overloaded
from deployments.contract.types import Chunk, SamplingOptions
from deployments.engines.text.engine import TextGenerationEngine
from tests.support.text_models import PROMPTS, VOCABULARY, Listener, Reference, ask, load_paged, load_slots

LOADERS = [load_slots, load_paged]


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


def test_no_log_probabilities_are_told_unless_asked_for(engine: TextGenerationEngine) -> None:
    assert not any(chunk.logprobs for chunk in chunks(ask(engine, PROMPTS[0], 5)))
    told = chunks(ask(engine, PROMPTS[0], 5, SamplingOptions(logprobs=0)))
    assert [one.top for chunk in told for one in chunk.logprobs] == [[]] * 5


def test_a_prompt_of_token_ids_says_what_its_text_says(engine: TextGenerationEngine, folder: Path) -> None:
    listener = Listener()
    engine.submit(Reference(folder).tokenizer(PROMPTS[0]).input_ids, 20, SamplingOptions(), listener)
    assert listener.finished() == ask(engine, PROMPTS[0], 20).finished()
    assert listener.text == ask(engine, PROMPTS[0], 20).text


@pytest.mark.parametrize("ids", [[0, -1], [0, VOCABULARY], [2**40]])
def test_tokens_out_of_the_vocabulary_are_refused(engine: TextGenerationEngine, ids: list[int]) -> None:
    with pytest.raises(InvalidRequest, match=f"not one of the model's {VOCABULARY}"):
        engine.submit(ids, 5, SamplingOptions(), Listener())


@pytest.mark.parametrize(
    "sampling", [SamplingOptions(), SamplingOptions(stop=["zzz", "e"]), SamplingOptions(temperature=1.0, seed=3)]
)
def test_all_text_at_once_is_the_streamed_text(engine: TextGenerationEngine, sampling: SamplingOptions) -> None:
    for prompt in PROMPTS:
        whole, streamed = Listener(), ask(engine, prompt, 40, sampling)
        engine.submit(prompt, 40, sampling, whole, stream=False)
        assert whole.finished() == streamed.finished()
        assert whole.text == streamed.text
        assert len(whole.events) <= 2


@pytest.mark.parametrize("load", LOADERS)
def test_more_than_max_waiting_are_turned_away_with_a_time(
    load: Callable[..., TextGenerationEngine], folder: Path
) -> None:
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


@pytest.mark.parametrize("load", LOADERS)
def test_stats_count_tokens_and_times(load: Callable[..., TextGenerationEngine], folder: Path) -> None:
    engine = load(folder)
    end = ask(engine, PROMPTS[0], 20).finished()
    ask(engine, PROMPTS[1], 1)
    stats = engine.stats
    engine.close()
    assert (stats.running, stats.waiting) == (0, 0)
    assert stats.generated_tokens == 21
    assert stats.prompt_tokens > end.prompt_tokens
    assert [sum(seen.counts) for seen in (stats.queue_s, stats.first_token_s, stats.inter_token_s)] == [2, 2, 1]
    assert end.timing
    assert end.timing.first_token_s
    assert end.timing.inter_token_s
    assert 0 <= end.timing.queue_s < end.timing.first_token_s < 60
