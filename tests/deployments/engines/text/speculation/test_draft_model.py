"""A draft model follows the texts, whatever of its proposals is taken, and no text changes by it."""

import random
from collections.abc import Sequence

import torch

from deployments.engines.text.decoders.decoder import ChunkedPrefill, StepOutput, Verified, step_output
from deployments.engines.text.decoders.model import ModelFacts
from deployments.engines.text.speculation.draft_model import LONGEST, DraftModel
from tests.deployments.engines.text.speculation.test_prompt_lookup import (
    PlayedText,
)

VOCABULARY, CONTEXT, CHUNK = 50, 200, 8


def following(tokens: Sequence[int]) -> int:
    """What the played draft model has for the best token."""
    return (tokens[-1] * 7 + tokens[-2] + len(tokens)) % VOCABULARY if len(tokens) > 1 else 1


class PlayedDraft:
    """Holds the tokens of its rows."""

    nbytes = 7
    use = 0.0
    shared_tokens = 0
    chunk_size: int | None = CHUNK
    prefill_budget = 2 * CHUNK
    joins_rows = False
    draft_budget = 0

    def __init__(self) -> None:
        self.texts: list[list[int]] = []
        self.computed = 0
        self.broken = False
        self.closed = False

    @property
    def rows(self) -> int:
        return len(self.texts)

    def output(self) -> StepOutput:
        logits = torch.zeros(self.rows, VOCABULARY)
        for row, text in zip(logits, self.texts, strict=True):
            row[following(text)] = torch.nan if self.broken else 1
        return step_output(logits)

    def prefill(self, prompts: Sequence[Sequence[int]], tokens: Sequence[int] = ()) -> StepOutput:
        raise NotImplementedError

    def begin_chunked(self, prompt: Sequence[int], each: bool = False) -> ChunkedPrefill:
        for end in range(CHUNK, len(prompt) + CHUNK, CHUNK):
            self.computed += CHUNK
            if end < len(prompt):
                yield None
        self.texts.append(list(prompt))
        yield self.output()

    def step(self, tokens: Sequence[int]) -> StepOutput:
        return self.extend([[token] for token in tokens])

    def extend(self, rows: Sequence[Sequence[int]]) -> StepOutput:
        assert all(rows)
        for text, row in zip(self.texts, rows, strict=True):
            text += row
            assert len(text) <= CONTEXT
        return self.output()

    def rewind(self, row: int, length: int) -> None:
        assert 0 < length <= len(self.texts[row])
        del self.texts[row][length:]

    def verify(self, rows: Sequence[Sequence[int]]) -> Verified:
        raise NotImplementedError

    def release(self, row: int, broken: bool = False) -> None:
        self.texts[row] = self.texts[-1]
        self.texts.pop()

    def clear(self) -> None:
        self.texts = []

    def close(self) -> None:
        self.closed = True


def played(vocabulary: int = VOCABULARY) -> tuple[PlayedDraft, DraftModel]:
    decoder = PlayedDraft()
    return decoder, DraftModel("d", decoder, ModelFacts(CONTEXT, VOCABULARY, frozenset()), vocabulary, 5)


def expected(text: PlayedText, number: int) -> list[int]:
    tokens = list(text.tokens)
    for _ in range(number):
        tokens.append(following(tokens))
    return tokens[len(text.tokens) :]


def test_it_proposes_what_it_would_go_on_with_whatever_was_taken_and_whoever_comes_and_goes() -> None:
    choice = random.Random(5)
    decoder, model = played()
    texts: list[PlayedText] = []
    proposed = 0
    for _ in range(400):
        if len(texts) < 4 and choice.random() < 0.2:
            texts.append(PlayedText([choice.randrange(VOCABULARY) for _ in range(choice.randrange(2, 40))]))
        texts = [text for text in texts if choice.random() > 0.02]
        if not texts:
            model.rest()
            assert decoder.rows == 0
            continue
        drafts = model.propose(texts, 32) or [[] for _ in texts]
        for text, draft in zip(texts, drafts, strict=True):
            assert draft == expected(text, len(draft))
            assert len(draft) <= LONGEST
            proposed += len(draft)
            taken = draft[: choice.choice([len(draft), len(draft), choice.randrange(LONGEST)])]
            text.tokens += [*taken, choice.randrange(VOCABULARY)]
    assert proposed > 300


def test_what_may_not_be_proposed_to_has_no_row() -> None:
    decoder, model = played()
    sampled, asked = PlayedText([1, 2, 3], draft_limit=0), PlayedText([1, 2, 3])
    assert model.propose([sampled, asked], 32) == [[], expected(asked, 2)]
    assert decoder.rows == 1
    asked.draft_limit = 0
    assert model.propose([sampled, asked], 32) is None
    assert decoder.rows == 0
    crowd = [PlayedText([1, 2]) for _ in range(33)]
    assert model.propose(crowd, 32) is None


def test_a_step_that_failed_and_is_made_again_is_proposed_the_same() -> None:
    _, model = played()
    text = PlayedText([1, 2, 3])
    assert model.propose([text], 32) == model.propose([text], 32) == [expected(text, 2)]


def test_a_text_that_is_longer_than_the_draft_models_context_is_not_proposed_to() -> None:
    decoder, model = played()
    text = PlayedText([1] * (CONTEXT - LONGEST))
    while not decoder.rows:
        drafts = model.propose([text], 32)
    assert drafts
    text.tokens += [*drafts[0], 3]
    assert model.propose([text], 32) is None
    assert decoder.rows == 0


def test_tokens_that_one_of_the_models_does_not_have_are_not_proposed_or_computed() -> None:
    decoder, model = played(vocabulary=VOCABULARY + 9)
    assert model.propose([PlayedText([1, VOCABULARY + 3, 4])], 32) is None
    assert decoder.computed == 0
    _, small = played(vocabulary=1)
    assert small.propose([PlayedText([1, 2])], 32) is None


def test_a_long_text_joins_in_chunks_while_others_are_proposed_to() -> None:
    decoder, model = played()
    short, long = PlayedText([1, 2, 3]), PlayedText([4] * 10 * CHUNK)
    model.propose([short], 32)
    for _ in range(4):
        before = decoder.computed
        assert model.propose([short, long], 32)
        assert decoder.computed - before <= decoder.prefill_budget
        short.tokens += [*expected(short, 2), 5]
        long.tokens.append(5)
    drafts = model.propose([short, long], 32)
    assert drafts
    assert drafts[1] == expected(long, 2)


def test_a_draft_model_that_fails_costs_no_text_and_proposes_nothing_more() -> None:
    decoder, model = played()
    text = PlayedText([1, 2, 3])
    text.tokens += [*expected(text, 2), 1]
    assert model.propose([text], 32)
    text.tokens += [*expected(text, 2), 1]
    decoder.broken = True
    assert model.propose([text], 32) is None
    assert decoder.rows == 0
    decoder.broken = False
    assert model.propose([text], 32) is None
    assert model.note == "draft model d, which failed"


def test_its_memory_is_its_decoders_and_goes_with_it() -> None:
    decoder, model = played()
    assert (model.nbytes, model.weight_bytes) == (7, 5)
    model.close()
    assert decoder.closed
