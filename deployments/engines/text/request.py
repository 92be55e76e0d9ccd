"""One request on its way through the engine, and what its caller is told. Knows tokens and text, not tensors."""

import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from deployments.contract.errors import ServingError
from deployments.engines.text.sampler import Likelihood, Sampling
from deployments.engines.text.structured_output import Grammar
from deployments.engines.text.tokenizer import Continuation, Tokens

log = logging.getLogger(__name__)

TELL_EVERY_S = 1 / 60  # A stream is told no more often: no screen shows more, and what is told costs more than a step.


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token with its log-probability by the model's own logits. `top`: the best ones in its place, best first."""

    token_id: int
    utf8: bytes
    logprob: float
    top: tuple["TokenLogprob", ...] = ()

    @property
    def text(self) -> str:
        return self.utf8.decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Chunk:
    """New text that never changes any more. `index`: how many tokens were generated so far.

    `logprobs`, where asked for: one for each token since the last chunk. Only a chunk with these may have no text.
    """

    text: str
    index: int
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds: in the queue, from the call to the first token, and between tokens on average (None below two)."""

    queue_s: float
    first_token_s: float | None
    inter_token_s: float | None


@dataclass(frozen=True, slots=True)
class Finished:
    """`finish_reason`: "stop", "length" or "cancelled"."""

    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    timing: Timing | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Failed:
    error: ServingError


Event = Chunk | Finished | Failed
Emit = Callable[[Event], None]


class Generation:
    """One request on its way through the engine. `stream`: tell text as it comes, not all of it at the end."""

    def __init__(
        self,
        prompt: list[int],
        limit: int,
        sampling: Sampling,
        tokens: Tokens,
        emit: Emit,
        stream: bool = True,
        grammar: Grammar | None = None,
    ) -> None:
        self.prompt_tokens = len(prompt)
        self.tokens = prompt  # The prompt, then what is generated.
        self.limit = limit
        self.sampling = sampling
        self.grammar = grammar
        self.seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
        self.cancelled = False
        self._text = Continuation(tokens, prompt, sampling.stop)
        self._spelling = tokens.spelling
        self._emit = emit
        self._stream = stream
        # Without a listener and without stop strings nobody looks at the text before the end.
        self._reads = stream or bool(sampling.stop)
        self._untold: list[str] = []
        self._told_at = -TELL_EVERY_S
        self._logprobs: list[TokenLogprob] = []
        self.submitted_at = time.monotonic()
        self.joined_at: float | None = None
        self.first_at: float | None = None

    def cancel(self) -> None:
        """End it within one step. May be called from any thread, at any time, more than once."""
        self.cancelled = True

    def join(self) -> None:
        """It waits no longer."""
        self.joined_at = time.monotonic()

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_tokens

    def extend(self, token: int, is_end: bool, likelihood: Likelihood | None = None) -> str | None:
        """Append a token and tell its text; the reason why the generation ends with it, if it does."""
        self.tokens.append(token)
        if self.first_at is None:
            self.first_at = time.monotonic()
        if likelihood is not None and not is_end:
            self._logprobs.append(self._spelt(token, likelihood))
        if self._reads and not is_end:
            self._say(self._text.add(token))
        if self._text.stopped:
            return "stop"
        if not is_end and self.grammar is not None and self.grammar.accept(token):
            self._say(self._last(False), ended=True)
            return "stop"
        if is_end or self.generated >= self.limit:
            self._say(self._last(is_end), ended=True)
            return "stop" if is_end or self._text.stopped else "length"
        return None

    def _last(self, is_end: bool) -> str:
        if self._reads:
            return self._text.end()
        return self._text.add_all(self.tokens[self.prompt_tokens : len(self.tokens) - is_end])

    def _spelt(self, token: int, likelihood: Likelihood) -> TokenLogprob:
        top = tuple(TokenLogprob(other, self._spelling(other), value) for other, value in likelihood.top)
        return TokenLogprob(token, self._spelling(token), likelihood.chosen, top)

    def _say(self, text: str, ended: bool = False) -> None:
        if text:
            self._untold.append(text)
        ended = ended or self._text.stopped
        if not ended and not (self._stream and self._untold):
            return
        now = time.monotonic()
        if ended or now - self._told_at >= TELL_EVERY_S:
            if self._untold or self._logprobs:
                self.tell(Chunk("".join(self._untold), self.generated, tuple(self._logprobs)))
            self._untold, self._logprobs = [], []
            self._told_at = now

    def tell(self, event: Event) -> None:
        try:
            self._emit(event)
        except Exception:
            log.exception("a listener failed; its generation is cancelled")
            self.cancelled = True

    def finish(self, reason: str) -> None:
        self.tell(Finished(reason, self.prompt_tokens, self.generated, self.timing()))

    def timing(self) -> Timing:
        """As of now: call it when the last token has come."""
        now = time.monotonic()
        begun = now if self.joined_at is None else self.joined_at
        if self.first_at is None:
            return Timing(begun - self.submitted_at, None, None)
        steps = self.generated - 1
        pause = (now - self.first_at) / steps if steps > 0 else None
        return Timing(begun - self.submitted_at, self.first_at - self.submitted_at, pause)
