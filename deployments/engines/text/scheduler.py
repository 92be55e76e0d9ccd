"""The requests that run: each has a row of the decoder, and every step gives each row a token. Knows no threads."""

from collections.abc import Callable, Sequence

from deployments.contract.errors import OutOfMemory, ServingError
from deployments.engines.errors import as_serving_error
from deployments.engines.text.decoders.decoder import Decoder, Entering, Step
from deployments.engines.text.next_tokens import pick
from deployments.engines.text.request import Failed, Generation
from deployments.engines.text.stats import Meter

Accepts = Callable[[Generation], bool]
Take = Callable[[Accepts], Generation | None]
"""The next request that waits, if there is one and it is accepted."""


class Batch:
    """Up to `max_rows` requests; they join and leave between steps."""

    def __init__(self, decoder: Decoder, stop_ids: frozenset[int], max_rows: int, meter: Meter) -> None:
        self.decoder = decoder
        self.running: list[Generation] = []  # Row i of the decoder belongs to running[i].
        self._entering: tuple[Generation, Entering] | None = None  # A long prompt that has no row yet.
        self._stop_ids = stop_ids
        self._max_rows = max_rows
        self._meter = meter

    @property
    def requests(self) -> list[Generation]:
        """All that run, those whose prompt is still being computed included."""
        return [*self.running, *([self._entering[0]] if self._entering else [])]

    def step(self, take: Take) -> None:
        """One round: rows leave, rows join, and every row gets a token."""
        self._leave()
        joined = self._join(take)
        if joined:
            self._prefill(joined)
        if self._entering:
            self._advance(*self._entering)
        if self.running:
            self._accept(self.decoder.step([generation.tokens[-1] for generation in self.running]), 0)

    def abandon(self, failure: Exception) -> None:
        """A step failed. If memory ran out the longest request goes, otherwise all that were running."""
        error = as_serving_error(failure)
        if isinstance(error, OutOfMemory) and len(self.running) > 1:
            longest = max(range(len(self.running)), key=lambda row: len(self.running[row].tokens))
            self._release(longest).tell(Failed(error))
            return
        left = self.requests
        self.forget()
        self.decoder.clear()
        for generation in left:
            generation.tell(Failed(error))

    def forget(self) -> None:
        """Let go of all requests without a word."""
        self.running, self._entering = [], None

    def _leave(self) -> None:
        for row in reversed(range(len(self.running))):
            if self.running[row].cancelled:
                self._release(row).finish("cancelled")
        if self._entering and self._entering[0].cancelled:
            generation, self._entering = self._entering[0], None
            generation.finish("cancelled")

    def _join(self, take: Take) -> list[Generation]:
        """Take what there is room for, as far as it is computed together. The rest waits for the next round: the first
        tokens of these are told before."""
        joined: list[Generation] = []
        prompts: set[tuple[int, ...]] = set()  # Equal ones are computed once.

        def fits(generation: Generation) -> bool:
            if self._is_long(generation):
                return self._entering is None and not joined
            with_it = prompts | {tuple(generation.tokens)}
            return not joined or sum(map(len, with_it)) <= self.decoder.together

        while len(self.requests) + len(joined) < self._max_rows and (generation := take(fits)):
            if generation.cancelled or generation.limit <= 0:
                generation.finish("cancelled" if generation.cancelled else "length")
                continue
            generation.join()
            self._meter.prompt_tokens += generation.prompt_tokens
            if self._is_long(generation):
                self._entering = generation, self.decoder.enter(generation.tokens)
                continue
            prompts.add(tuple(generation.tokens))
            joined.append(generation)
        return joined

    def _is_long(self, generation: Generation) -> bool:
        return self.decoder.piece is not None and len(generation.tokens) > self.decoder.piece

    def _advance(self, generation: Generation, entering: Entering) -> None:
        """Compute one piece of the long prompt; with the last one it joins."""
        try:
            step = entering.advance()
        except Exception as failure:
            self._entering = None
            generation.tell(Failed(as_serving_error(failure)))
            return
        if step is not None:
            self._entering = None
            self.running.append(generation)
            self._accept(step, len(self.running) - 1)

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
        self._accept(step, first)

    def _accept(self, step: Step, first: int) -> None:
        """Give the rows from `first` on their next token; let go of those that end with it."""
        rows = self.running[first:]
        picks = pick(step, rows)
        self._meter.generated_tokens += len(rows)
        for n in reversed(range(len(rows))):
            picked = picks[n]
            if isinstance(picked, ServingError):
                self._release(first + n, broken=not step.finite[n]).tell(Failed(picked))
                continue
            reason = rows[n].extend(picked.token, picked.token in self._stop_ids, picked.likelihood)
            if reason:
                self._meter.finished(rows[n])
                self._release(first + n).finish(reason)

    def _release(self, row: int, broken: bool = False) -> Generation:
        self.decoder.release(row, broken)
        generation = self.running[row]
        last = self.running.pop()
        if row < len(self.running):
            self.running[row] = last
        return generation
