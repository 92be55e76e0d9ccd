"""The TextGeneration deployment: submits requests to the model's engine, which batches them step by step."""

import asyncio
import logging
import weakref
from typing import TYPE_CHECKING

from deployments.contract.errors import Cancelled
from deployments.contract.types import TextGeneration, TextGenerationResult, Usage
from deployments.families.text_generation.metrics import TextMetrics
from deployments.families.text_generation.output import GenerationOutput, LoopNotifier
from deployments.metrics.samples import ModelReport
from deployments.replica.calls import OnChunk
from deployments.replica.model_replica import ModelReplica, ReplicaOptions
from deployments.repository.model import Model

logger = logging.getLogger("ray.serve")  # Whose lines Ray keeps.

if TYPE_CHECKING:
    from deployments.engines.text.engine import TextGenerationEngine
    from deployments.engines.text.request import GenerationRequest


class TextGenerationReplica(ModelReplica[TextGeneration, "TextGenerationEngine"]):
    """Answers TextGeneration requests."""

    def __init__(self, options: ReplicaOptions) -> None:
        super().__init__(options)
        # Imported here: only replicas pay for torch, not the process that builds the application.
        from deployments.engines.device import default_device, gpu_share, use_threads
        from deployments.engines.loading import build_in_turn
        from deployments.engines.text.engine import TextGenerationEngine

        use_threads(self.cores)
        build_in_turn()
        self.device = default_device()
        if gpu := gpu_share(self.settings.num_gpus):
            self.use_gpu(gpu, gpu.total_bytes)
        self.load_engine = TextGenerationEngine.load
        self.notifier: LoopNotifier | None = None
        self.metrics = TextMetrics()
        self.chats: weakref.WeakKeyDictionary[TextGenerationEngine, asyncio.Lock] = weakref.WeakKeyDictionary()

    def load(self, model: Model) -> "TextGenerationEngine":
        engine = self.load_engine(
            model.folder,
            self.device,
            model.manifest.dtype,
            self.batch_limit(model),
            facts=self.validator.facts_of(model.folder),
        )
        logger.info("%s on %s: %s", model.name, self.device, "; ".join(engine.runtime_info))
        return engine

    async def answer(
        self, request: TextGeneration, model: Model, engine: "TextGenerationEngine", on_chunk: OnChunk | None
    ) -> TextGenerationResult:
        self.metrics.watch(engine, model.name)
        if self.notifier is None:
            self.notifier = LoopNotifier(asyncio.get_running_loop())
        output = GenerationOutput(self.notifier, on_chunk)
        submitting = asyncio.create_task(self._submit(engine, request, output, on_chunk is not None))
        try:
            await asyncio.shield(submitting)
            with self.cpu.working(model.name, one_thread=True):
                end = await output.finished
        finally:
            # Also where the caller was cancelled before the request was submitted.
            submitting.add_done_callback(_cancel)
            output.finished.cancel()
        self.metrics.finished(model.name, end)
        return TextGenerationResult(
            generated_text=output.text,
            model_id=model.name,
            finish_reason=end.finish_reason,
            usage=Usage(prompt_tokens=end.prompt_tokens, completion_tokens=end.completion_tokens),
            logprobs=None if request.logprobs is None else output.logprobs,
        )

    async def measurements(self) -> list[ModelReport]:
        return [*await super().measurements(), *self.metrics.read()]

    async def _submit(
        self, engine: "TextGenerationEngine", request: TextGeneration, output: GenerationOutput, stream: bool
    ) -> "GenerationRequest":
        """In a thread: a long prompt takes a while to tokenise, a chat to render."""
        prompt = request.prompt if request.prompt_ids is None else request.prompt_ids
        if request.messages is not None:
            # A model renders one chat at a time: those that wait must not hold the threads that others need.
            async with self.chats.setdefault(engine, asyncio.Lock()):
                if output.finished.done():
                    raise Cancelled("the request was given up")
                prompt = await asyncio.to_thread(engine.chat, request.messages)
        return await asyncio.to_thread(engine.submit, prompt, request.max_tokens, request, output.emit, stream)


def _cancel(submitted: "asyncio.Task[GenerationRequest]") -> None:
    if not submitted.cancelled() and submitted.exception() is None:
        submitted.result().cancel()
