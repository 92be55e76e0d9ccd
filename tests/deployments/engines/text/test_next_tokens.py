"""Each row of a batch gets its own next token, or its own failure."""

import pytest
import torch

from deployments.contract.errors import Internal, InvalidRequest
from deployments.contract.types import SamplingOptions
from deployments.engines.text.decoders.decoder import step_output
from deployments.engines.text.next_tokens import NextToken, next_tokens, scored
from deployments.engines.text.request import Event, GenerationRequest
from deployments.engines.text.structured_output import Grammar
from deployments.engines.text.tokenizer import Tokenizer
from tests.support.text_models import byte_level_tokenizer

TOKENIZER = Tokenizer(byte_level_tokenizer())
LOGITS = torch.randn(4, 20, generator=torch.Generator().manual_seed(0))


class Only(Grammar):
    """Allows one token, or none that it could compute."""

    def __init__(self, token: int | None) -> None:
        self.token = token

    def allowed(self) -> torch.Tensor:
        if self.token is None:
            raise InvalidRequest("the JSON schema is too complex to follow")
        return torch.arange(20) == self.token


def request(grammar: Grammar | None = None, **options: object) -> GenerationRequest:
    sampling = SamplingOptions.model_validate(options)
    return GenerationRequest([3, 4], 5, sampling, TOKENIZER, lambda event: None, grammar=grammar)


def test_each_row_is_sampled_by_its_own_options() -> None:
    rows = [
        request(),
        request(temperature=1.5, seed=1),
        request(Only(7), json_schema={}),
        request(repetition_penalty=9),
    ]
    best = LOGITS.argmax(-1).tolist()
    greedy, drawn, constrained, penalised = next_tokens(step_output(LOGITS), rows)
    assert greedy == NextToken(best[0], None)
    assert [drawn] == next_tokens(step_output(LOGITS[1:2]), [rows[1]])
    assert constrained == NextToken(7, None)
    assert next_tokens(step_output(LOGITS[:1]), [request(Only(7))]) == [NextToken(7, None)], "the grammar of calls"
    assert isinstance(penalised, NextToken)


def test_a_request_knows_with_how_many_it_was_computed_at_most() -> None:
    first, second, third = request(), request(), request()
    next_tokens(step_output(LOGITS[:1]), [first])
    assert first.timing().together == 1
    next_tokens(step_output(LOGITS), [first, first, second, second])  # a token proposed to each was right
    next_tokens(step_output(LOGITS[:1]), [first])
    assert [one.timing().together for one in (first, second, third)] == [2, 2, 0]


def test_a_prompt_with_a_logit_that_is_not_finite_is_not_told_and_fails() -> None:
    told: list[Event] = []
    sampling = SamplingOptions(logprobs=1, prompt_logprobs=True)
    request = GenerationRequest([3, 4, 5, 6], 5, sampling, TOKENIZER, told.append)
    broken = LOGITS.clone()
    broken[1, 7] = torch.nan
    assert scored(step_output(broken[:2]), request) is None
    following = scored(step_output(broken[2:]), request)
    assert following
    [failure] = next_tokens(following, [request])
    assert isinstance(failure, Internal)
    assert not told


def test_log_probabilities_are_the_model_s_own_for_those_that_ask() -> None:
    tokens = next_tokens(step_output(LOGITS), [request(), request(logprobs=2), request(), request(logprobs=0)])
    found = [token.logprobs for token in tokens if isinstance(token, NextToken)]
    expected = LOGITS.log_softmax(-1)
    assert found[0] is found[2] is None
    assert found[1]
    assert found[1].chosen == pytest.approx(float(expected[1].max()))
    assert [token for token, _ in found[1].top] == expected[1].topk(2).indices.tolist()
    assert found[3]
    assert found[3].top == ()


def test_only_the_row_that_is_not_finite_or_cannot_follow_its_schema_fails() -> None:
    logits = LOGITS.clone()
    logits[1, 3] = torch.nan
    rows = [request(), request(logprobs=1), request(Only(None), json_schema={}), request(temperature=1.0)]
    first, broken, complex_schema, last = next_tokens(step_output(logits), rows)
    assert isinstance(broken, Internal)
    assert isinstance(complex_schema, InvalidRequest)
    assert isinstance(first, NextToken)
    assert isinstance(last, NextToken)
