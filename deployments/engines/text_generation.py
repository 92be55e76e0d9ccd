"""Text generation on a Hugging Face folder by continuous batching. Knows tokens and text, not HTTP or Ray."""

import logging
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import torch

from deployments.engines.sampling import Sampling
from deployments.engines.text_batch import Accepts, Batch
from deployments.engines.text_chat import ChatMessage, ChatRenderer
from deployments.engines.text_decoders import ClosedDecoder, choose_decoder
from deployments.engines.text_grammar import Grammars
from deployments.engines.text_model import CausalModel
from deployments.engines.text_requests import Chunk, Emit, Event, Failed, Finished, Generation
from deployments.engines.text_slots import SlotDecoder
from deployments.engines.text_stats import Distribution, EngineStats, Meter
from deployments.engines.text_step import Decoder
from deployments.engines.text_tokens import Tokens
from deployments.engines.trials import Findings, Trials
from deployments.errors import (
    InvalidRequest,
    ModelLoadFailed,
    Overloaded,
    PromptTooLong,
    ServingError,
    Unavailable,
)

__all__ = [
    "ChatMessage",
    "Chunk",
    "Distribution",
    "EngineStats",
    "Event",
    "Failed",
    "Finished",
    "Generation",
    "Sampling",
    "TextGenerationEngine",
]

log = logging.getLogger(__name__)

MAX_WAITING = 1_024


class TextGenerationEngine:
    """A model and the one thread that runs it. Requests join and leave between steps."""

    def __init__(
        self,
        loaded: CausalModel,
        decoder: Decoder,
        tokens: Tokens,
        max_batch_size: int,
        max_waiting: int,
        notes: tuple[str, ...],
    ) -> None:
        self._notes = notes
        self._loaded: CausalModel | None = loaded
        self._tokens = tokens
        self._context = loaded.context
        self._vocabulary = loaded.vocabulary
        self._max_batch_size = max_batch_size
        self._max_waiting = max_waiting
        self._meter = Meter()
        self._batch = Batch(decoder, loaded.stop_ids, max_batch_size, self._meter)
        self._grammars = Grammars(tokens.source, loaded.vocabulary, loaded.stop_ids)
        template = tokens.chat_template()
        self._chat = ChatRenderer(template) if template else None
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
        max_waiting: int = MAX_WAITING,
        findings: Findings | None = None,
    ) -> "TextGenerationEngine":
        """Load from safetensors, without the network and without code from the folder. Raises ModelLoadFailed.

        `compile_steps`: use a compiled decode step where one lies on disk, make one once the model is used much.
        `findings`: what earlier loads found out by trying.
        """
        trials = Trials(findings, device, dtype)
        try:
            loaded = CausalModel.load(folder, device, dtype, trials)
            tokens = Tokens.load(folder)
            decoder, notes = choose_decoder(loaded, trials)
            if compile_steps and isinstance(decoder, SlotDecoder):
                decoder.compile_from(folder, loaded.linears, trials)
        except ServingError:
            raise
        except Exception as failure:
            log.exception("a text model did not load")
            raise ModelLoadFailed(f"the model cannot be read ({type(failure).__name__})") from None
        return cls(loaded, decoder, tokens, max_batch_size, max_waiting, notes)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a status page should say of how this model runs."""
        decoder = self._batch.decoder
        programs = decoder.programs if isinstance(decoder, SlotDecoder) else None
        return (*self._notes, "compiled decode step") if programs and programs.ready else self._notes

    @property
    def resident_bytes(self) -> int:
        """Measured: the storage of the model's tensors and of the cache."""
        loaded = self._loaded
        return loaded.nbytes + self._batch.decoder.nbytes if loaded else 0

    @property
    def running(self) -> int:
        """How many requests have a row."""
        return len(self._batch.requests)

    @property
    def waiting(self) -> int:
        """How many requests wait for one."""
        return len(self._waiting)

    @property
    def stats(self) -> EngineStats:
        """What it does now and has done so far; from any thread."""
        meter, decoder = self._meter, self._batch.decoder
        return EngineStats(
            running=self.running,
            waiting=self.waiting,
            prompt_tokens=meter.prompt_tokens,
            shared_tokens=decoder.shared_tokens,
            generated_tokens=meter.generated_tokens,
            cache_bytes=decoder.nbytes,
            cache_use=decoder.use,
            queue_s=meter.queue.read(),
            first_token_s=meter.first_token.read(),
            inter_token_s=meter.inter_token.read(),
        )

    def chat(self, messages: Sequence[ChatMessage]) -> list[int]:
        """The prompt that asks for the next message, by the model's own template; may block for seconds.

        What messages spell stays text. Raises InvalidRequest where there is no template, or it gives no text.
        """
        if self._chat is None:
            raise InvalidRequest("the model has no chat template")
        return self._tokens.encode_chat(self._chat.render(messages))

    def submit(
        self,
        prompt: str | Sequence[int],
        max_new_tokens: int,
        sampling: Sampling,
        emit: Emit,
        stream: bool = True,
    ) -> Generation:
        """Queue a prompt, as text or as token ids; from any thread.

        `emit` is called from the engine's thread and must be quick. Without `stream` it is told all text at once at
        the end, which costs less. Raises PromptTooLong, InvalidRequest, Overloaded, and Unavailable once closed.
        """
        ids = self._tokens.encode(prompt) if isinstance(prompt, str) else list(prompt)
        ids = ids or [self._tokens.first(self._vocabulary)]
        if len(ids) >= self._context:
            raise PromptTooLong(f"the prompt has {len(ids)} tokens, the model takes at most {self._context - 1}")
        if min(ids) < 0 or max(ids) >= self._vocabulary:
            raise InvalidRequest(f"the prompt holds a token that is not one of the model's {self._vocabulary}")
        limit = min(max_new_tokens, self._context - len(ids))
        grammar = None if sampling.json_schema is None else self._grammars.of(sampling.json_schema)
        generation = Generation(ids, limit, sampling, self._tokens, emit, stream, grammar)
        with self._wake:
            if self._closing:
                raise Unavailable("the model is being unloaded")
            if len(self._waiting) >= self._max_waiting:
                raise self._overloaded()
            self._waiting.append(generation)
            self._wake.notify()
        return generation

    def close(self) -> None:
        """End the thread, fail what is running, give the memory back. May be called more than once."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._chat:
            self._chat.close()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _overloaded(self) -> Overloaded:
        waiting = len(self._waiting)
        overloaded = Overloaded(f"{waiting} requests wait for this model already")
        overloaded.retry_after_ms = self._meter.wait_ms(waiting, self._max_batch_size)
        return overloaded

    def _run(self) -> None:
        with torch.inference_mode():
            while self._has_work():
                try:
                    self._batch.step(self._take)
                except Exception as failure:
                    self._batch.abandon(failure)
        self._end()

    def _has_work(self) -> bool:
        """Wait for work; False once the engine closes."""
        with self._wake:
            self._wake.wait_for(lambda: self._closing or self._batch.requests or self._waiting)
            return not self._closing

    def _take(self, accepts: Accepts) -> Generation | None:
        with self._wake:
            if self._waiting and accepts(self._waiting[0]):
                return self._waiting.popleft()
            return None

    def _end(self) -> None:
        batch = self._batch
        with self._wake:
            left = [*batch.requests, *self._waiting]
            self._waiting.clear()
        batch.forget()
        batch.decoder.close()
        batch.decoder = ClosedDecoder()
        self._loaded = None
        for generation in left:
            generation.tell(Failed(Unavailable("the model is being unloaded")))
