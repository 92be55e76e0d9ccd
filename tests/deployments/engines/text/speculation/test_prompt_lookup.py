"""What a text proposes for itself, and when it stops. The model's text is the same with it, whatever else runs."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from deployments.contract.chunk import Chunk
from deployments.contract.types import SamplingOptions
from deployments.engines.text.engine import TextGenerationEngine
from deployments.engines.text.request import Event, GenerationRequest
from deployments.engines.text.speculation.prompt_lookup import PromptLookup, RepeatedText
from deployments.engines.text.speculation.proposer import FIRST, LONGEST
from tests.support import PROJECT
from tests.support.text_models import PATIENCE_S, Listener, ask, load_openvino, save_long_model

ONCE = [1, 2, 3, 4, 5, 6, 7]


@dataclass(eq=False)
class PlayedText:
    tokens: list[int] = field(default_factory=list)
    draft_limit: int = 100


def follow(text: RepeatedText, tokens: list[int], right: int | None = None) -> int:
    """Proposes once, and takes `right` tokens of that, all by default; the number proposed."""
    drafts = text.propose(tokens, LONGEST)
    tokens += drafts[: len(drafts) if right is None else right]
    tokens.append(9)  # What the model adds.
    return len(drafts)


def test_what_followed_the_last_tokens_before_is_proposed() -> None:
    assert RepeatedText().propose([*ONCE, 0, 1, 2, 3], 9) == [4, 5]
    assert RepeatedText().propose([*ONCE, 0, 1, 2, 3], 1) == [4]
    assert RepeatedText().propose([1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3], 1) == [5], "the last time counts"
    assert RepeatedText().propose([1, 1, 1, 1], 9) == [1, 1], "a period goes on"


def test_a_text_that_repeats_nothing_proposes_nothing() -> None:
    for tokens in ([], [1], [1, 1], [1, 1, 1], ONCE, [*ONCE, 2, 3]):
        assert RepeatedText().propose(tokens, 9) == []


def test_proposals_grow_while_they_are_right_and_shrink_to_what_was() -> None:
    text, tokens = RepeatedText(), [9] * 4
    assert [follow(text, tokens) for _ in range(5)] == [FIRST, 4, 8, LONGEST, LONGEST]
    assert follow(text, tokens, right=3) == LONGEST
    assert follow(text, tokens) == 3


def test_after_each_proposal_of_which_nothing_was_right_the_pause_is_four_times_as_long() -> None:
    text, tokens = RepeatedText(), [9] * 4
    numbers = [follow(text, tokens, right=0) for _ in range(87)]
    proposed = [n for n, number in enumerate(numbers) if number]
    assert proposed == [0, 5, 22]
    assert follow(text, tokens, right=1) == FIRST
    assert follow(text, tokens) == FIRST, "what was right ends the pauses"


def test_rows_share_the_budget_and_some_propose_nothing() -> None:
    repeated = [9] * 9
    texts = [PlayedText(repeated), PlayedText(repeated, draft_limit=1), PlayedText(ONCE), PlayedText(repeated, 0)]
    assert PromptLookup().propose(texts, 32) == [[9, 9], [9], [], []]
    assert PromptLookup().propose(texts, 4) == [[9], [9], [], []]
    assert PromptLookup().propose(texts, 3) is None
    assert PromptLookup().propose(texts[2:], 32) is None


def test_a_text_that_has_ended_is_forgotten() -> None:
    lookup, text = PromptLookup(), PlayedText([9] * 9)
    lookup.propose([text, PlayedText()], 32)
    lookup.propose([text], 32)
    assert list(lookup._texts) == [text]


REPEATED = "the quick brown fox jumps over the lazy dog. " * 4
PROPOSING = [
    (REPEATED, 90, SamplingOptions()),
    ("Once upon a time", 120, SamplingOptions()),
    (REPEATED, 60, SamplingOptions(logprobs=2)),
    (REPEATED, 30, SamplingOptions(logprobs=0, prompt_logprobs=True)),
    (REPEATED + "x", 150, SamplingOptions(stop=["e", "0"])),
]
OTHERS = [
    ("a", 40, SamplingOptions(temperature=0.9, seed=3)),
    (REPEATED, 40, SamplingOptions(repetition_penalty=1.4)),
    (REPEATED, 20, SamplingOptions(min_tokens=20)),
    ("{", 30, SamplingOptions(json_schema={"enum": ["ab" * 9]})),
    (REPEATED, 1, SamplingOptions()),
]


MODELS = [pytest.param(name, marks=pytest.mark.compiles) for name in ("gpt-nano", "llama")]


@pytest.fixture(scope="module", params=MODELS)
def engines(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[TextGenerationEngine, TextGenerationEngine]]:
    """Without and with prompt lookup."""
    llama = request.param == "llama"
    folder = save_long_model(tmp_path_factory.mktemp("llama")) if llama else PROJECT / "models" / "gpt-nano"
    both = load_openvino(folder), load_openvino(folder, prompt_lookup=True)
    yield both
    for engine in both:
        engine.close()


def assert_alike(one: Listener, other: Listener) -> None:
    """The same tokens for the same reason, with log-probabilities alike but for rounding."""
    assert one.finished() == other.finished()
    assert one.text == other.text
    first, second = (
        [token for event in listener.events if isinstance(event, Chunk) for token in event.logprobs]
        for listener in (one, other)
    )
    assert [token.token for token in first] == [token.token for token in second]
    assert [token.logprob for token in first] == pytest.approx([token.logprob for token in second], abs=1e-3)


def test_a_text_is_the_same_and_only_greedy_ones_propose(
    engines: tuple[TextGenerationEngine, TextGenerationEngine],
) -> None:
    plain, speculating = engines
    stats = speculating.stats
    for asked, proposes in ((PROPOSING, True), (OTHERS, False)):
        before = stats.draft_tokens, stats.accepted_tokens
        for prompt, tokens, sampling in asked:
            assert_alike(*(ask(engine, prompt, tokens, sampling) for engine in engines))
        assert (stats.draft_tokens > before[0]) == (stats.accepted_tokens > before[1]) == proposes
    assert plain.stats.draft_tokens == 0


@pytest.mark.parametrize("stream", [True, False])
def test_a_text_is_the_same_beside_others(
    stream: bool, engines: tuple[TextGenerationEngine, TextGenerationEngine]
) -> None:
    _, speculating = engines
    accepted = speculating.stats.accepted_tokens
    asked = [*PROPOSING, *OTHERS]
    listeners = [[Listener() for _ in asked] for _ in engines]
    for engine, row in zip(engines, listeners, strict=True):
        for (prompt, tokens, sampling), listener in zip(asked, row, strict=True):
            engine.submit(prompt, tokens, sampling, listener, stream)
    for one, other in zip(*listeners, strict=True):
        assert_alike(one, other)
    assert speculating.stats.accepted_tokens > accepted
    assert speculating.loop.running == speculating.loop.waiting == 0
    assert speculating.loop.use == 0


class Quitter(Listener):
    """Cancels its request after 50 tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.submitted = threading.Event()
        self.request: GenerationRequest

    def __call__(self, event: Event) -> None:
        super().__call__(event)
        if isinstance(event, Chunk) and event.index >= 50:
            assert self.submitted.wait(PATIENCE_S)
            self.request.cancel()


def test_a_request_that_is_cancelled_while_it_proposes_ends(
    engines: tuple[TextGenerationEngine, TextGenerationEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployments.engines.text.request.EMIT_EVERY_S", 0)
    monkeypatch.setattr(PromptLookup, "propose", lambda self, texts, budget: [[7] * text.draft_limit for text in texts])
    _, speculating = engines
    drafted, quitter = speculating.stats.draft_tokens, Quitter()
    quitter.request = speculating.submit(REPEATED, 70, SamplingOptions(ignore_eos=True), quitter)
    quitter.submitted.set()
    end = quitter.finished()
    assert end.finish_reason == "cancelled"
    assert 50 <= end.completion_tokens < 70
    assert speculating.stats.draft_tokens > drafted
    assert speculating.loop.use == 0
