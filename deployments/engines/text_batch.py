"""The requests that run: each has a row of the decoder, and every step gives each row a token. Knows no threads."""

import logging
import time
from collections.abc import Callable, Sequence

from deployments.engines.sampling import Choice, Likelihood, likelihoods, sample
from deployments.engines.text_decoders import PREFILL_TOKENS, Decoder, Step
from deployments.engines.text_failures import as_serving_error
from deployments.engines.text_requests import Failed, Generation
from deployments.engines.text_stats import Meter
from deployments.errors import Internal, OutOfMemory

log = logging.getLogger(__name__)

Accepts = Callable[[Generation], bool]
Take = Callable[[Accepts], Generation | None]
"""The next request that waits, if there is one and it is accepted."""


class Batch:
    """Up to `max_rows` requests; they join and leave between steps."""

    def __init__(self, decoder: Decoder, stop_ids: frozenset[int], max_rows: int, meter: Meter) -> None:
        self.decoder = decoder
        self.running: list[Generation] = []  # Row i of the decoder belongs to running[i].
        self._stop_ids = stop_ids
        self._max_rows = max_rows
        self._meter = meter

    def step(self, take: Take) -> None:
        """One round: rows leave, rows join, and every row gets a token."""
        self._leave()
        joined = self._join(take)
        if joined:
            self._prefill(joined)
        if self.running:
            self._accept(self.decoder.step([generation.tokens[-1] for generation in self.running]), 0)

    def abandon(self, failure: Exception) -> None:
        """A step failed. If memory ran out the longest request goes, otherwise all that were running."""
        error = as_serving_error(failure)
        if isinstance(error, OutOfMemory) and len(self.running) > 1:
            longest = max(range(len(self.running)), key=lambda row: len(self.running[row].tokens))
            self._release(longest).tell(Failed(error))
            return
        running, self.running = self.running, []
        self.decoder.clear()
        for generation in running:
            generation.tell(Failed(error))

    def _leave(self) -> None:
        for row in reversed(range(len(self.running))):
            if self.running[row].cancelled:
                self._release(row).finish("cancelled")

    def _join(self, take: Take) -> list[Generation]:
        """Take what there is room for, as far as it can be prefilled together."""
        joined: list[Generation] = []
        longest = 0

        def fits(generation: Generation) -> bool:
            return not joined or max(longest, len(generation.tokens)) * (len(joined) + 1) <= PREFILL_TOKENS

        while len(self.running) + len(joined) < self._max_rows and (generation := take(fits)):
            if generation.cancelled or generation.limit <= 0:
                generation.finish("cancelled" if generation.cancelled else "length")
                continue
            longest = max(longest, len(generation.tokens))
            generation.joined_at = time.monotonic()
            joined.append(generation)
        return joined

    def _prefill(self, joined: Sequence[Generation]) -> None:
        try:
            step = self.decoder.prefill([generation.tokens for generation in joined])
        except Exception as failure:
            if len(joined) == 1:
                joined[0].tell(Failed(as_serving_error(failure)))
                return
            for generation in joined:  # The offender alone shall fail.
                self._prefill([generation])
            return
        first = len(self.running)
        self.running += joined
        self._meter.prompt_tokens += sum(generation.prompt_tokens for generation in joined)
        self._accept(step, first)

    def _accept(self, step: Step, first: int) -> None:
        """Give the rows from `first` on their next token; let go of those that end with it."""
        rows = self.running[first:]
        tokens = step.best
        choosing = [n for n, row in enumerate(rows) if step.finite[n] and not row.sampling.takes_the_best]
        if choosing:
            choices = [Choice(rows[n].sampling, rows[n].seed, rows[n].tokens) for n in choosing]
            for n, token in zip(choosing, sample(step.logits[choosing], choices), strict=True):
                tokens[n] = token
        told = self._likelihoods(step, rows)
        self._meter.generated_tokens += len(rows)
        for n in reversed(range(len(rows))):
            if not step.finite[n]:
                log.error("the model gave logits that are not finite")
                self._release(first + n, broken=True).tell(Failed(Internal("the model failed on this request")))
                continue
            reason = rows[n].extend(tokens[n], tokens[n] in self._stop_ids, told.get(n))
            if reason:
                self._finish(self._release(first + n), reason)

    def _likelihoods(self, step: Step, rows: Sequence[Generation]) -> dict[int, Likelihood]:
        """By row, where asked for."""
        asked = {n: row.sampling.logprobs for n, row in enumerate(rows) if row.sampling.logprobs is not None}
        tops = {n: top for n, top in asked.items() if top is not None and step.finite[n]}
        if not tops:
            return {}
        found = likelihoods(step.logits[list(tops)], [step.best[n] for n in tops], list(tops.values()))
        return dict(zip(tops, found, strict=True))

    def _finish(self, generation: Generation, reason: str) -> None:
        timing = generation.timing()
        self._meter.finished(timing, time.monotonic() - generation.submitted_at - timing.queue_s)
        generation.finish(reason)

    def _release(self, row: int, broken: bool = False) -> Generation:
        self.decoder.release(row, broken)
        generation = self.running[row]
        last = self.running.pop()
        if row < len(self.running):
            self.running[row] = last
        return generation
