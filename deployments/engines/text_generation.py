"""Text generation on a Hugging Face folder by continuous batching. Knows tokens and text, not HTTP or Ray."""

import logging
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import torch

from deployments.engines.sampling import Choice, Sampling, sample
from deployments.engines.text_decoders import PREFILL_TOKENS, Decoder, SlotDecoder, Step, choose_decoder
from deployments.engines.text_model import CausalModel
from deployments.engines.text_requests import Chunk, Emit, Event, Failed, Finished, Generation
from deployments.engines.text_tokens import Continuation, Tokens
from deployments.errors import (
    Internal,
    InvalidRequest,
    ModelLoadFailed,
    OutOfMemory,
    PromptTooLong,
    ServingError,
    Unavailable,
)

__all__ = ["Chunk", "Event", "Failed", "Finished", "Generation", "Sampling", "TextGenerationEngine"]

log = logging.getLogger(__name__)


class TextGenerationEngine:
    """A model and the one thread that runs it. Requests join and leave between steps."""

    def __init__(self, loaded: CausalModel, decoder: Decoder, tokens: Tokens, max_batch_size: int) -> None:
        self._notes: tuple[str, ...] = ()
        self._loaded: CausalModel | None = loaded
        self._decoder: Decoder = decoder
        self._tokens = tokens
        self._context = loaded.context
        self._vocabulary = loaded.vocabulary
        self._stop_ids = loaded.stop_ids
        self._max_batch_size = max_batch_size
        self._running: list[Generation] = []  # Row i of the decoder belongs to running[i].
        self._waiting: deque[Generation] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="text-generation", daemon=True)
        self._thread.start()

    @classmethod
    def load(
        cls,
        folder: Path,
        device: str = "cpu",
        dtype: str | None = None,
        max_batch_size: int = 16,
        compile_steps: bool = True,
    ) -> "TextGenerationEngine":
        """Load from safetensors, without the network and without code from the folder. Raises ModelLoadFailed.

        `compile_steps`: use a compiled decode step where one lies on disk, make one once the model is used much.
        """
        try:
            loaded = CausalModel.load(folder, device, dtype)
            tokens = Tokens.load(folder)
            decoder, notes = choose_decoder(loaded)
            if compile_steps and isinstance(decoder, SlotDecoder):
                decoder.compile_from(folder)
        except ServingError:
            raise
        except Exception as failure:
            log.exception("a text model did not load")
            raise ModelLoadFailed(f"the model cannot be read ({type(failure).__name__})") from None
        engine = cls(loaded, decoder, tokens, max_batch_size)
        engine._notes = notes
        return engine

    @property
    def notes(self) -> tuple[str, ...]:
        """What a status page should say of how this model runs."""
        programs = self._decoder.programs if isinstance(self._decoder, SlotDecoder) else None
        return (*self._notes, "compiled decode step") if programs and programs.ready else self._notes

    @property
    def resident_bytes(self) -> int:
        """Measured: the storage of the model's tensors and of the cache."""
        loaded = self._loaded
        return loaded.nbytes + self._decoder.nbytes if loaded else 0

    @property
    def running(self) -> int:
        """How many requests have a row."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """How many requests wait for one."""
        return len(self._waiting)

    def submit(self, prompt: str, max_new_tokens: int, sampling: Sampling, emit: Emit) -> Generation:
        """Queue a prompt; from any thread. `emit` is called from the engine's thread and must be quick.

        Raises PromptTooLong, and Unavailable once the engine is closed.
        """
        ids = self._tokens.encode(prompt) or [self._tokens.first(self._vocabulary)]
        if len(ids) >= self._context:
            raise PromptTooLong(f"the prompt has {len(ids)} tokens, the model takes at most {self._context - 1}")
        if max(ids) >= self._vocabulary:
            raise InvalidRequest("the prompt holds a token that the model does not know")
        limit = min(max_new_tokens, self._context - len(ids))
        generation = Generation(ids, limit, sampling, Continuation(self._tokens, ids, sampling.stop), emit)
        with self._wake:
            if self._closing:
                raise Unavailable("the model is being unloaded")
            self._waiting.append(generation)
            self._wake.notify()
        return generation

    def close(self) -> None:
        """End the thread, fail what is running, give the memory back. May be called more than once."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        with torch.inference_mode():
            while self._has_work():
                try:
                    self.step()
                except Exception as failure:
                    self._abandon(failure)
        self._end()

    def _has_work(self) -> bool:
        """Wait for work; False once the engine closes."""
        with self._wake:
            self._wake.wait_for(lambda: self._closing or self._running or self._waiting)
            return not self._closing

    def step(self) -> None:
        """One round: rows leave, rows join, and every row gets a token."""
        self._leave()
        joined = self._join()
        if joined:
            self._prefill(joined)
        if self._running:
            self._accept(self._decoder.step([generation.tokens[-1] for generation in self._running]), 0)

    def _leave(self) -> None:
        for row in reversed(range(len(self._running))):
            if self._running[row].cancelled:
                self._release(row).finish("cancelled")

    def _join(self) -> list[Generation]:
        """Take from the queue what there is room for, as far as it can be prefilled together."""
        joined: list[Generation] = []
        longest = 0
        while len(self._running) + len(joined) < self._max_batch_size:
            with self._wake:
                if not self._waiting:
                    break
                generation = self._waiting[0]
                longest = max(longest, len(generation.tokens))
                if joined and longest * (len(joined) + 1) > PREFILL_TOKENS:
                    break
                self._waiting.popleft()
            if generation.cancelled or generation.limit <= 0:
                generation.finish("cancelled" if generation.cancelled else "length")
            else:
                joined.append(generation)
        return joined

    def _prefill(self, joined: Sequence[Generation]) -> None:
        try:
            step = self._decoder.prefill([generation.tokens for generation in joined])
        except Exception as failure:
            if len(joined) == 1:
                joined[0].tell(Failed(_as_serving_error(failure)))
                return
            for generation in joined:  # The offender alone shall fail.
                self._prefill([generation])
            return
        first = len(self._running)
        self._running += joined
        self._accept(step, first)

    def _accept(self, step: Step, first: int) -> None:
        """Give the rows from `first` on their next token; let go of those that end with it."""
        rows = self._running[first:]
        tokens = step.best
        choosing = [n for n, row in enumerate(rows) if step.finite[n] and not row.sampling.takes_the_best]
        if choosing:
            choices = [Choice(rows[n].sampling, rows[n].seed, rows[n].tokens) for n in choosing]
            for n, token in zip(choosing, sample(step.logits[choosing], choices), strict=True):
                tokens[n] = token
        for n in reversed(range(len(rows))):
            if not step.finite[n]:
                log.error("the model gave logits that are not finite")
                self._release(first + n, broken=True).tell(Failed(Internal("the model failed on this request")))
                continue
            reason = self._extend(rows[n], tokens[n])
            if reason:
                self._release(first + n).finish(reason)

    def _extend(self, generation: Generation, token: int) -> str | None:
        """Append a token and tell its text; the reason why the generation ends with it, if it does."""
        generation.tokens.append(token)
        text = generation.text
        if token in self._stop_ids:
            generation.say(text.end())
            return "stop"
        generation.say(text.add(token))
        if text.stopped:
            return "stop"
        if generation.generated < generation.limit:
            return None
        generation.say(text.end())
        return "stop" if text.stopped else "length"

    def _release(self, row: int, broken: bool = False) -> Generation:
        self._decoder.release(row, broken)
        generation = self._running[row]
        last = self._running.pop()
        if row < len(self._running):
            self._running[row] = last
        return generation

    def _abandon(self, failure: Exception) -> None:
        """A step failed. If memory ran out the longest request goes, otherwise all that were running."""
        error = _as_serving_error(failure)
        if isinstance(error, OutOfMemory) and len(self._running) > 1:
            longest = max(range(len(self._running)), key=lambda row: len(self._running[row].tokens))
            self._release(longest).tell(Failed(error))
            return
        running, self._running = self._running, []
        self._decoder.clear()
        for generation in running:
            generation.tell(Failed(error))

    def _end(self) -> None:
        with self._wake:
            left = [*self._running, *self._waiting]
            self._waiting.clear()
        self._running = []
        self._decoder.close()
        self._decoder = _Closed()
        self._loaded = None
        for generation in left:
            generation.tell(Failed(Unavailable("the model is being unloaded")))


class _Closed:
    """The decoder of a closed engine: it holds nothing."""

    rows = 0
    nbytes = 0

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Step:
        raise Unavailable("the model is being unloaded")

    def step(self, tokens: Sequence[int]) -> Step:
        raise Unavailable("the model is being unloaded")

    def release(self, row: int, broken: bool = False) -> None: ...

    def clear(self) -> None: ...

    def close(self) -> None: ...


def _as_serving_error(failure: Exception) -> ServingError:
    """What a caller may know of an unexpected failure; the rest goes to the log."""
    if isinstance(failure, ServingError):
        return failure
    log.error("a step failed", exc_info=failure)
    text = str(failure).lower()
    if isinstance(failure, MemoryError | torch.OutOfMemoryError) or "allocate memory" in text:
        return OutOfMemory("there is not enough memory for this request")
    return Internal("the model failed on this request")
