"""The next token of each request of a batch. Knows logits and requests, not how either came about."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

from deployments.contract.errors import Internal, ServingError
from deployments.engines.text.decoders.decoder import StepOutput
from deployments.engines.text.request import GenerationRequest
from deployments.engines.text.sampler import Logprobs, RowSampling, logprobs, sample

log = logging.getLogger(__name__)


class NextToken(NamedTuple):
    token: int
    logprobs: Logprobs | None
    """None unless the request asks for them."""


def next_tokens(output: StepOutput, requests: Sequence[GenerationRequest]) -> list[NextToken | ServingError]:
    """For each request its token, or why it fails. Row n of the output belongs to requests[n]."""
    together = len(set(requests))
    for request in requests:
        request.together = max(request.together, together)
    tokens = list(output.best)
    failed = _sample(output, requests, tokens)
    found = _logprobs(output, requests, tokens)
    return [failed.get(n) or NextToken(token, found.get(n)) for n, token in enumerate(tokens)]


def scored(output: StepOutput, request: GenerationRequest) -> StepOutput | None:
    """Gives a request the log-probabilities of its prompt's next tokens. `output`: after each token of a part of it.

    The logits that follow the whole prompt, once they are reached.
    """
    tokens = request.unscored[: len(output.best)]
    if tokens:
        tops = [request.sampling.logprobs or 0] * len(tokens)
        request.score(logprobs(output.logits[: len(tokens)], tokens, tops))
    if len(tokens) == len(output.best):
        return None
    return output.of([len(tokens)])._replace(finite=[output.finite[-1] and request.end_scoring()])


def _sample(output: StepOutput, requests: Sequence[GenerationRequest], tokens: list[int]) -> dict[int, ServingError]:
    """Replaces the best token of each row that is not greedy; returns the rows that fail."""
    sampled: dict[int, RowSampling] = {}
    failed: dict[int, ServingError] = {}
    for n, request in enumerate(requests):
        if not output.finite[n]:
            log.error("the model gave logits that are not finite")
            failed[n] = Internal("the model failed on this request")
        elif not request.greedy:
            try:
                allowed = request.grammar.allowed() if request.grammar else None
                sampled[n] = RowSampling(
                    request.sampling,
                    request.seed,
                    request.tokens,
                    allowed,
                    request.prompt_tokens,
                    request.barred,
                    request.folder,
                )
            except ServingError as failure:
                failed[n] = failure
    if sampled:
        for n, token in zip(sampled, sample(output.logits[list(sampled)], list(sampled.values())), strict=True):
            tokens[n] = token
    return failed


def _logprobs(output: StepOutput, requests: Sequence[GenerationRequest], tokens: Sequence[int]) -> dict[int, Logprobs]:
    """By row, for the requests that ask for them."""
    asked = {n: request.sampling.logprobs for n, request in enumerate(requests)}
    tops = {n: top for n, top in asked.items() if top is not None and output.finite[n]}
    if not tops:
        return {}
    found = logprobs(output.logits[list(tops)], [tokens[n] for n in tops], list(tops.values()))
    return dict(zip(tops, found, strict=True))
