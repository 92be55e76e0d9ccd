"""Which token each request takes next. Knows logits and requests, not how either came about."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

from deployments.contract.errors import Internal, ServingError
from deployments.engines.text.decoders.decoder import Step
from deployments.engines.text.request import Generation
from deployments.engines.text.sampler import Choice, Likelihood, likelihoods, sample

log = logging.getLogger(__name__)


class Pick(NamedTuple):
    token: int
    likelihood: Likelihood | None
    """Where the request asked for it."""


def pick(step: Step, rows: Sequence[Generation]) -> list[Pick | ServingError]:
    """For each row its request's token, or why there is none. Row n of the step belongs to rows[n]."""
    tokens = list(step.best)
    failed = _choose(step, rows, tokens)
    told = _likelihoods(step, rows, tokens)
    return [failed.get(n) or Pick(token, told.get(n)) for n, token in enumerate(tokens)]


def _choose(step: Step, rows: Sequence[Generation], tokens: list[int]) -> dict[int, ServingError]:
    """Put the token of each row that does not take the best one in its place; rows for which there is none."""
    choices: dict[int, Choice] = {}
    failed: dict[int, ServingError] = {}
    for n, row in enumerate(rows):
        if not step.finite[n]:
            log.error("the model gave logits that are not finite")
            failed[n] = Internal("the model failed on this request")
        elif not row.sampling.takes_the_best:
            try:
                allowed = row.grammar.allowed() if row.grammar else None
                choices[n] = Choice(row.sampling, row.seed, row.tokens, allowed)
            except ServingError as failure:
                failed[n] = failure
    if choices:
        for n, token in zip(choices, sample(step.logits[list(choices)], list(choices.values())), strict=True):
            tokens[n] = token
    return failed


def _likelihoods(step: Step, rows: Sequence[Generation], tokens: Sequence[int]) -> dict[int, Likelihood]:
    """By row, where asked for."""
    asked = {n: row.sampling.logprobs for n, row in enumerate(rows) if row.sampling.logprobs is not None}
    tops = {n: top for n, top in asked.items() if top is not None and step.finite[n]}
    if not tops:
        return {}
    found = likelihoods(step.logits[list(tops)], [tokens[n] for n in tops], list(tops.values()))
    return dict(zip(tops, found, strict=True))
