"""One request on its way through the engine, and what its caller is told. Knows tokens and text, not tensors."""

import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from deployments.engines.sampling import Sampling
from deployments.engines.text_tokens import Continuation
from deployments.errors import ServingError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Chunk:
    """New text that never changes any more. `index`: how many tokens were generated so far."""

    text: str
    index: int


@dataclass(frozen=True, slots=True)
class Finished:
    """`finish_reason`: "stop", "length" or "cancelled"."""

    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Failed:
    error: ServingError


Event = Chunk | Finished | Failed
Emit = Callable[[Event], None]


class Generation:
    """One request on its way through the engine."""

    def __init__(self, prompt: list[int], limit: int, sampling: Sampling, text: Continuation, emit: Emit) -> None:
        self.prompt_tokens = len(prompt)
        self.tokens = prompt  # The prompt, then what is generated.
        self.limit = limit
        self.sampling = sampling
        self.seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
        self.text = text
        self.cancelled = False
        self._emit = emit

    def cancel(self) -> None:
        """End it within one step. May be called from any thread, at any time, more than once."""
        self.cancelled = True

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_tokens

    def tell(self, event: Event) -> None:
        try:
            self._emit(event)
        except Exception:
            log.exception("a listener failed; its generation is cancelled")
            self.cancelled = True

    def say(self, text: str) -> None:
        if text:
            self.tell(Chunk(text, self.generated))

    def finish(self, reason: str) -> None:
        self.tell(Finished(reason, self.prompt_tokens, self.generated))
