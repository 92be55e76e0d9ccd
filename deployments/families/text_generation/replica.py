"""The TextGeneration deployment: hands requests to the model's engine, which batches them step by step."""

import asyncio
import json
import logging
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING

from deployments.contract.errors import Cancelled
from deployments.contract.types import TextGeneration, TextGenerationResult, Usage
from deployments.families.text_generation.metrics import TextMeasures
from deployments.metrics.samples import Measured
from deployments.replica.calls import OnChunk
from deployments.replica.model_replica import ModelReplica, ReplicaOptions
from deployments.repository.model import Model

logger = logging.getLogger("ray.serve")  # Whose lines Ray keeps.

if TYPE_CHECKING:
    from deployments.engines.text.engine import Generation, Sampling, TextGenerationEngine
    from deployments.families.text_generation.listener import Listener, LoopNotifier


class TextGenerationReplica(ModelReplica[TextGeneration, "TextGenerationEngine"]):
    """Answers TextGeneration requests."""

    def __init__(self, options: ReplicaOptions) -> None:
        super().__init__(options)
        # Imported here: only replicas pay for torch, not whoever builds the application.
        from deployments.engines.device import default_device, gpu_share, use_threads
        from deployments.engines.loading import build_in_turn
        from deployments.engines.text import engine as text_generation
        from deployments.families.text_generation import listener as listening

        use_threads(self.cores)
        build_in_turn()
        self.device = default_device()
        if gpu := gpu_share(self.settings.num_gpus):
            self.use_gpu(gpu, gpu.total_bytes)
        self.engines = text_generation
        self.listening = listening
        self.bell: LoopNotifier | None = None
        self.measures = TextMeasures()
        self.chats: weakref.WeakKeyDictionary[TextGenerationEngine, asyncio.Lock] = weakref.WeakKeyDictionary()

    def load(self, model: Model) -> "TextGenerationEngine":
        engine = self.engines.TextGenerationEngine.load(
            model.folder,
            self.device,
            model.manifest.dtype,
            self.batch_limit(model),
            facts=self.validator.facts_of(model.folder),
        )
        logger.info("%s on %s: %s", model.name, self.device, "; ".join(engine.runtime_info))
        return engine

    async def answer(
        self, request: TextGeneration, model: Model, engine: "TextGenerationEngine", tell: OnChunk | None
    ) -> TextGenerationResult:
        self.measures.watch(engine, model.name)
        listener = self.listening.Listener(self._bell(), tell)
        submitting = asyncio.create_task(self._submitted(engine, request, listener, tell is not None))
        try:
            await asyncio.shield(submitting)
            end = await listener.finished
        finally:
            # Also where the caller left before it was submitted.
            submitting.add_done_callback(_cancel)
            listener.finished.cancel()
        self.measures.finished(model.name, end)
        return TextGenerationResult(
            generated_text=listener.text,
            model_id=model.name,
            finish_reason=end.finish_reason,
            usage=Usage(prompt_tokens=end.prompt_tokens, completion_tokens=end.completion_tokens),
            logprobs=None if request.logprobs is None else listener.logprobs,
        )

    async def measurements(self) -> list[Measured]:
        return [*await super().measurements(), *self.measures.read()]

    async def _submitted(
        self, engine: "TextGenerationEngine", request: TextGeneration, listener: "Listener", stream: bool
    ) -> "Generation":
        """In a thread: a long prompt takes a while to tokenise, a chat to render."""
        if request.messages is None:
            return await asyncio.to_thread(self._submit, engine, request, listener, stream)
        # A model renders one chat at a time: those that wait shall not hold the threads that others need.
        async with self.chats.setdefault(engine, asyncio.Lock()):
            if listener.finished.done():
                raise Cancelled("the request was given up")
            return await asyncio.to_thread(self._submit, engine, request, listener, stream)

    def _submit(
        self, engine: "TextGenerationEngine", request: TextGeneration, listener: "Listener", stream: bool
    ) -> "Generation":
        prompt: str | Sequence[int] = request.prompt
        if request.messages is not None:
            prompt = engine.chat([self.engines.ChatMessage(turn.role, turn.content) for turn in request.messages])
        elif request.prompt_ids is not None:
            prompt = request.prompt_ids
        return engine.submit(prompt, request.max_tokens, self._sampling(request), listener, stream)

    def _bell(self) -> "LoopNotifier":
        if self.bell is None:
            self.bell = self.listening.LoopNotifier(asyncio.get_running_loop())
        return self.bell

    def _sampling(self, request: TextGeneration) -> "Sampling":
        stop = request.stop or ()
        return self.engines.Sampling(
            temperature=request.temperature or 0.0,
            top_p=1.0 if request.top_p is None else request.top_p,
            top_k=request.top_k or 0,
            min_p=request.min_p or 0.0,
            repetition_penalty=1.0 if request.repetition_penalty is None else request.repetition_penalty,
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            seed=request.seed,
            logprobs=request.logprobs,
            json_schema=None if request.json_schema is None else json.dumps(request.json_schema),
        )


def _cancel(submitted: "asyncio.Task[Generation]") -> None:
    if not submitted.cancelled() and submitted.exception() is None:
        submitted.result().cancel()
