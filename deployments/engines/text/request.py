"""One request in the engine, and the events that its caller gets. Knows tokens and text, not tensors."""

import logging
import math
import secrets
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from deployments.contract.chunk import Chunk
from deployments.contract.errors import ServingError
from deployments.contract.text_generation import Alternative, PromptToken, TokenLogprob
from deployments.contract.types import SamplingOptions
from deployments.engines.text.detokenizer import Detokenizer
from deployments.engines.text.folder.generation import StepProcessors
from deployments.engines.text.sampler import Logprobs
from deployments.engines.text.structured_output import Grammar
from deployments.engines.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)

EMIT_EVERY_S = 1 / 60  # Of one stream. No screen shows more, and to emit a chunk costs more than a decode step.
LEAST_LOGPROB = -9999.0  # OpenAI's API has this for an impossible token.


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds: in the queue, from the call to the first token, and from each token to the next.

    `together`: how many requests its forwards computed, of them the most; 0 where it came to none.
    """

    queue_s: float
    first_token_s: float | None
    gaps_s: tuple[float, ...] = ()
    together: int = 0


@dataclass(frozen=True, slots=True)
class Finished:
    """`finish_reason`: "stop", "length", "deadline" or "cancelled"."""

    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    timing: Timing | None = field(default=None, compare=False)


Event = Chunk | Finished | ServingError
"""Any number of chunks, then how the request ended. Only a chunk with log-probabilities may have no text."""

Emit = Callable[[Event], None]


class GenerationRequest:
    """`stream`: emit text as it comes, not all of it at the end."""

    def __init__(
        self,
        prompt: list[int],
        max_new_tokens: int,
        sampling: SamplingOptions,
        tokenizer: Tokenizer,
        emit: Emit,
        stream: bool = True,
        grammar: Grammar | None = None,
        eos_ids: frozenset[int] = frozenset(),
        folder: StepProcessors | None = None,
    ) -> None:
        self.prompt_tokens = len(prompt)
        self.tokens = prompt  # And then what is generated.
        self.scores_prompt = bool(sampling.prompt_logprobs) and sampling.logprobs is not None
        """Whether the log-probabilities of the prompt are still to be computed."""
        self._prompt_logprobs: list[PromptToken] = []
        self.max_new_tokens = max_new_tokens
        self.sampling = sampling
        self.greedy = sampling.greedy and folder is None and grammar is None
        self.folder = folder
        self.grammar = grammar
        self._stop_ids = frozenset(sampling.stop_token_ids or ())
        self._end_ids = self._stop_ids if sampling.ignore_eos else self._stop_ids | eos_ids
        self.seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
        self.cancelled = False
        self._ends_early = False
        stop = [sampling.stop] if isinstance(sampling.stop, str) else sampling.stop or []
        self._stop = tuple(string for string in stop if string)
        self._tokenizer = tokenizer
        self._detokenizer: Detokenizer  # From the first token on.
        self._emit = emit
        self._stream = stream
        # Without a stream and without stop strings the text is needed at the end only, and decoded once.
        self._decodes_each = stream or bool(self._stop)
        self._text: list[str] = []  # Not emitted yet, as are these:
        self._logprobs: list[TokenLogprob] = []
        self._emitted_at = -EMIT_EVERY_S
        self.submitted_at = time.monotonic()
        self.admitted_at: float | None = None
        self.first_token_at: float | None = None
        self.together = 0
        self._last_token_at = 0.0
        self._gaps_s: list[float] = []

    def cancel(self) -> None:
        """End it within one step. May be called from any thread, at any time, more than once."""
        self.cancelled = True

    def end_early(self) -> None:
        """End it within one step, with the text that there is: its time is over. May be called from any thread."""
        self._ends_early = True
        self.cancelled = True

    def admit(self) -> None:
        """It waits no longer."""
        self.admitted_at = time.monotonic()

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_tokens

    @property
    def barred(self) -> Collection[int]:
        """Tokens that must not come next, since the text would end too early. A schema decides that by itself."""
        early = self.grammar is None and self.generated < (self.sampling.min_tokens or 0)
        return self._end_ids if early else ()

    @property
    def draft_limit(self) -> int:
        """Tokens that may be proposed: only where each is the model's best one, and the last one has none after it."""
        return max(0, self.max_new_tokens - self.generated - 1) if self.greedy else 0

    @property
    def over(self) -> bool:
        """Whether it needs no token at all."""
        return self.cancelled or (self.max_new_tokens <= 0 and not self.scores_prompt)

    @property
    def unscored(self) -> Sequence[int]:
        """The tokens of the prompt that have no log-probability yet. The first one never gets any."""
        return self.tokens[1 + len(self._prompt_logprobs) : self.prompt_tokens]

    def score(self, found: Sequence[Logprobs]) -> None:
        """Takes the log-probabilities of the next tokens of `unscored`."""
        for token, logprobs in zip(self.unscored, found, strict=False):
            one = self._token_logprob(token, logprobs)
            self._prompt_logprobs.append(PromptToken(token=one.token, utf8=one.utf8, logprob=one.logprob, top=one.top))

    def end_scoring(self) -> bool:
        """Emits the log-probabilities of the prompt; False if they are not finite."""
        self.scores_prompt = False
        if any(math.isnan(one.logprob or 0.0) for one in self._prompt_logprobs):
            return False
        first = self._alternative(self.tokens[0], 0.0)
        told = (PromptToken(token=first.token, utf8=first.utf8, logprob=None, top=[]), *self._prompt_logprobs)
        self.emit(Chunk("", 0, prompt_logprobs=told))
        return True

    def append(self, token: int, is_end: bool, logprobs: Logprobs | None = None) -> str | None:
        """Takes the next token and emits its text; returns the finish reason if it is the last one.

        `is_end`: whether it is one of the model's end tokens.
        """
        if self.max_new_tokens <= 0:  # Only its prompt was asked for.
            return "length"
        is_end = token in self._stop_ids or (is_end and not self.sampling.ignore_eos)
        now = time.monotonic()
        if self.first_token_at is None:
            self.first_token_at = now
            self._detokenizer = Detokenizer(self._tokenizer, self.tokens)
        else:
            self._gaps_s.append(now - self._last_token_at)
        self._last_token_at = now
        if self.generated >= (self.sampling.min_tokens or 0):
            self._detokenizer.stop = self._stop
        self.tokens.append(token)
        if logprobs is not None and not is_end:
            self._logprobs.append(self._token_logprob(token, logprobs))
        if self._decodes_each and not is_end:
            self._add_text(self._detokenizer.add(token))
        if self._detokenizer.stopped:
            return "stop"
        if not is_end and self.grammar is not None and self.grammar.accept(token):
            self._add_text(self._last_text(False), ended=True)
            return "stop"
        if is_end or self.generated >= self.max_new_tokens:
            self._add_text(self._last_text(is_end), ended=True)
            return "stop" if is_end or self._detokenizer.stopped else "length"
        return None

    def _last_text(self, is_end: bool) -> str:
        if self._decodes_each:
            return self._detokenizer.end()
        return self._detokenizer.add_all(self.tokens[self.prompt_tokens : len(self.tokens) - is_end])

    def _token_logprob(self, token: int, logprobs: Logprobs) -> TokenLogprob:
        top = [self._alternative(other, value) for other, value in logprobs.top]
        own = self._alternative(token, logprobs.chosen)
        return TokenLogprob(token=own.token, logprob=own.logprob, utf8=own.utf8, top=top)

    def _alternative(self, token: int, logprob: float) -> Alternative:
        utf8 = self._tokenizer.token_bytes(token)
        return Alternative(token=utf8.decode(errors="replace"), logprob=max(logprob, LEAST_LOGPROB), utf8=list(utf8))

    def _add_text(self, text: str, ended: bool = False) -> None:
        if text:
            self._text.append(text)
        ended = ended or self._detokenizer.stopped
        if not ended and not (self._stream and self._text):
            return
        now = time.monotonic()
        if ended or now - self._emitted_at >= EMIT_EVERY_S:
            if self._text or self._logprobs:
                self.emit(Chunk("".join(self._text), self.generated, tuple(self._logprobs)))
            self._text, self._logprobs = [], []
            self._emitted_at = now

    def emit(self, event: Event) -> None:
        try:
            self._emit(event)
        except Exception:
            log.exception("a caller's emit failed; its request is cancelled")
            self.cancelled = True

    def finish(self, reason: str) -> None:
        if reason == "cancelled" and self._ends_early and self.generated > 0:
            self._add_text(self._last_text(False), ended=True)
            reason = "deadline"
        self.emit(Finished(reason, self.prompt_tokens, self.generated, self.timing()))

    def timing(self) -> Timing:
        """As of now: call it when the last token has come."""
        now = time.monotonic()
        queue_s = (now if self.admitted_at is None else self.admitted_at) - self.submitted_at
        first_token_s = None if self.first_token_at is None else self.first_token_at - self.submitted_at
        return Timing(queue_s, first_token_s, tuple(self._gaps_s), self.together)
