"""Text generation on a Hugging Face folder by continuous batching. Knows tokens and text, not HTTP or Ray."""

import logging
from collections.abc import Sequence
from pathlib import Path

from deployments.contract.errors import InvalidRequest, ModelLoadFailed, PromptTooLong, ServingError
from deployments.engines.device import end_openmp_pool
from deployments.engines.probes import Facts, ProbeCache
from deployments.engines.text.chat_template import ChatMessage, ChatRenderer
from deployments.engines.text.loop import Loop, StepLoop
from deployments.engines.text.model import CausalModel
from deployments.engines.text.request import Chunk, Emit, Event, Failed, Finished, Generation
from deployments.engines.text.sampler import Sampling
from deployments.engines.text.select_backend import Candidate, select_backend
from deployments.engines.text.stats import Distribution, EngineStats, Meter
from deployments.engines.text.structured_output import Grammars
from deployments.engines.text.tokenizer import Tokens

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
    """A model, and the loop that runs its requests, which join and leave between steps."""

    def __init__(self, loaded: CausalModel, tokens: Tokens, loop: Loop, meter: Meter) -> None:
        self._loaded: CausalModel | None = loaded
        self._tokens = tokens
        self._loop = loop
        self._meter = meter
        self._vocabulary = loaded.vocabulary
        self._grammars = Grammars(tokens.source, loaded.vocabulary, loaded.stop_ids)
        template = tokens.chat_template()
        self._chat = ChatRenderer(template) if template else None

    @classmethod
    def load(
        cls,
        folder: Path,
        device: str = "cpu",
        dtype: str | None = None,
        max_batch_size: int = 16,
        compile_steps: bool = True,
        max_waiting: int = MAX_WAITING,
        facts: Facts | None = None,
    ) -> "TextGenerationEngine":
        """Load from safetensors, without the network and without code from the folder. Raises ModelLoadFailed.

        `compile_steps`: use compiled forwards where they lie on disk, make them once the model is used much.
        `facts`: what earlier loads found out by trying.
        """
        probes = ProbeCache(facts, device, dtype)
        try:
            loaded = CausalModel.load(folder, device, dtype, probes)
            tokens, meter = Tokens.load(folder), Meter()
            loop = select_backend(Candidate(loaded, tokens, max_batch_size, max_waiting, meter), probes)
            if compile_steps and isinstance(loop, StepLoop):
                loop.compile_from(folder, loaded.linears, probes)
        except ServingError:
            raise
        except Exception as failure:
            log.exception("a text model did not load")
            raise ModelLoadFailed(f"the model cannot be read ({type(failure).__name__})") from None
        finally:
            end_openmp_pool()
        return cls(loaded, tokens, loop, meter)

    @property
    def runtime_info(self) -> tuple[str, ...]:
        """What a status page should say of how this model runs."""
        return self._loop.runtime_info

    @property
    def resident_bytes(self) -> int:
        """Measured: the storage of the model's tensors and of the cache."""
        loaded = self._loaded
        return loaded.nbytes + self._loop.nbytes if loaded else 0

    @property
    def running(self) -> int:
        """How many requests have a row."""
        return self._loop.running

    @property
    def waiting(self) -> int:
        """How many requests wait for one."""
        return self._loop.waiting

    @property
    def stats(self) -> EngineStats:
        """What it does now and has done so far; from any thread."""
        meter, loop = self._meter, self._loop
        return EngineStats(
            running=loop.running,
            waiting=loop.waiting,
            prompt_tokens=meter.prompt_tokens,
            shared_tokens=loop.shared_tokens,
            generated_tokens=meter.generated_tokens,
            cache_bytes=loop.nbytes,
            cache_use=loop.use,
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

        `emit` is called from the loop's thread and must be quick. Without `stream` it is told all text at once at
        the end, which costs less. Raises PromptTooLong, InvalidRequest, Overloaded, and Unavailable once closed.
        """
        ids = self._tokens.encode(prompt) if isinstance(prompt, str) else list(prompt)
        ids = ids or [self._tokens.first(self._vocabulary)]
        longest = self._loop.longest
        if len(ids) >= longest:
            raise PromptTooLong(f"the prompt has {len(ids)} tokens, the model takes at most {longest - 1}")
        if min(ids) < 0 or max(ids) >= self._vocabulary:
            raise InvalidRequest(f"the prompt holds a token that is not one of the model's {self._vocabulary}")
        limit = min(max_new_tokens, longest - len(ids))
        grammar = None if sampling.json_schema is None else self._grammars.of(sampling.json_schema)
        generation = Generation(ids, limit, sampling, self._tokens, emit, stream, grammar)
        self._loop.add(generation)
        return generation

    def close(self) -> None:
        """End the threads, fail what is running, give the memory back. May be called more than once."""
        if self._chat:
            self._chat.close()
        self._loop.close()
        self._loaded = None
