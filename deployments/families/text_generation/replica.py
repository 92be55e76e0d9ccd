"""The TextGeneration deployment: submits requests to the model's engine, and takes their events into the event loop."""

import asyncio
import logging
import math
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from deployments.contract.chat import Markup
from deployments.contract.chunk import Chunk
from deployments.contract.errors import Cancelled, ServingError
from deployments.contract.settings import FamilySettings
from deployments.contract.text_generation import PromptToken, TokenLogprob, Usage
from deployments.contract.types import TextGeneration, TextGenerationResult
from deployments.families.computing.torch_replica import TorchReplica
from deployments.families.text_generation.metrics import TextMetrics
from deployments.metrics.samples import ModelReport
from deployments.replica.calls import OnChunk
from deployments.replica.model_replica import ReplicaOptions
from deployments.replica.replica import note, note_together
from deployments.repository.model import Model

logger = logging.getLogger("ray.serve")  # Whose lines Ray keeps.

if TYPE_CHECKING:
    from deployments.engines.text.engine import TextGenerationEngine
    from deployments.engines.text.request import Event, Finished, GenerationRequest


EARLY_S = 1.0
EARLY_SHARE = 0.1
"""A text is ended so long before its deadline, by the lesser of both: a step is under way, and the answer has to
travel. The share is of the time that is left when it begins."""
SHORT = 1_000
"""Characters, or tokens, of a prompt that the event loop tokenises itself: to wake a thread for it takes longer."""


class LoopNotifier:
    """Runs callbacks in the event loop. To wake it costs more than a decode step, so callbacks share a wake-up."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._callbacks: deque[Callable[[], None]] = deque()
        self._woken = False

    def run_soon(self, callback: Callable[[], None]) -> None:
        """From any thread."""
        self._callbacks.append(callback)
        if not self._woken:
            self._woken = True
            self._loop.call_soon_threadsafe(self._run_all)

    def _run_all(self) -> None:
        self._woken = False  # First: a callback that is added from here on wakes the loop again.
        while self._callbacks:
            self._callbacks.popleft()()


class GenerationOutput:
    """Collects the text of one request. In the event loop, `on_chunk` gets the chunks and `finished` the end."""

    def __init__(self, notifier: LoopNotifier, on_chunk: OnChunk | None) -> None:
        self._notifier = notifier
        self._on_chunk = on_chunk
        self.texts: list[str] = []
        self.logprobs: list[TokenLogprob] = []
        self.prompt_logprobs: list[PromptToken] = []
        self.markup: Markup | None = None
        """Set before the first event, where the request asks for it."""
        self.finished: asyncio.Future[Finished] = asyncio.get_running_loop().create_future()
        """Raises the ServingError that the request failed with."""

    def emit(self, event: "Event") -> None:
        """Called in the engine's thread."""
        if not isinstance(event, Chunk):
            self._notifier.run_soon(partial(self._end, event))
            return
        self.texts.append(event.text)
        self.logprobs += event.logprobs
        self.prompt_logprobs += event.prompt_logprobs
        if self._on_chunk:
            if self.markup and len(self.texts) == 1:  # With the first chunk.
                event = replace(event, markup=self.markup)
            self._notifier.run_soon(partial(self._on_chunk, event))

    def _end(self, event: "Finished | ServingError") -> None:
        if self.finished.done():  # The request was cancelled.
            return
        if isinstance(event, ServingError):
            self.finished.set_exception(event)
        else:
            self.finished.set_result(event)


class TextGenerationReplica(TorchReplica[TextGeneration, "TextGenerationEngine"]):
    """Answers TextGeneration requests."""

    def __init__(self, options: ReplicaOptions) -> None:
        super().__init__(options)
        # Imported here: only replicas pay for torch, not the process that builds the application.
        from deployments.engines.text.engine import CONVERTED_BYTES, TextGenerationEngine
        from deployments.engines.text.speculation.draft_model import DraftFolder
        from deployments.system.artifact_cache import ArtifactCache

        self.load_engine = TextGenerationEngine.load
        self.draft_folder = DraftFolder
        self.folder_defaults: bool = getattr(options.settings, "folder_defaults", True)
        self.converted = ArtifactCache(self.cache / "converted", CONVERTED_BYTES)
        self.notifier: LoopNotifier | None = None
        self.metrics = TextMetrics()
        self.chats: weakref.WeakKeyDictionary[TextGenerationEngine, asyncio.Lock] = weakref.WeakKeyDictionary()

    @staticmethod
    def side_by_side(settings: FamilySettings) -> int:
        return settings.max_batch_size

    def load(self, model: Model) -> "TextGenerationEngine":
        limit, facts, manifest = self.batch_limit(model), self.validator.facts_of(model.folder), model.manifest
        draft = model.draft
        defaults = self.folder_defaults if manifest.folder_defaults is None else manifest.folder_defaults
        engine = self.load_engine(
            *(model.folder, self.device, manifest.dtype, limit),
            cache=self.converted,
            facts=facts,
            folder_defaults=defaults,
            in_background=True,
            prompt_lookup=manifest.prompt_lookup,
            draft=self.draft_folder(draft.name, draft.folder, draft.manifest.dtype) if draft else None,
        )
        self.metrics.watch(engine, model.name)
        logger.info("%s on %s: %s", model.name, self.device, "; ".join(engine.runtime_info))
        return engine

    async def answer(
        self, request: TextGeneration, model: Model, engine: "TextGenerationEngine", on_chunk: OnChunk | None
    ) -> TextGenerationResult:
        return await self.answer_by(math.inf, request, model, engine, on_chunk)

    async def answer_by(
        self,
        ends_at: float,
        request: TextGeneration,
        model: Model,
        engine: "TextGenerationEngine",
        on_chunk: OnChunk | None,
    ) -> TextGenerationResult:
        """Ends shortly before `ends_at` with the text that there is by then. Raises TimeoutError if there is none."""
        if self.notifier is None:
            self.notifier = LoopNotifier(asyncio.get_running_loop())
        output = GenerationOutput(self.notifier, on_chunk)
        ending: asyncio.TimerHandle | None = None
        submitting = asyncio.create_task(self._submit(engine, request, output, on_chunk is not None))
        try:
            submitted = await asyncio.shield(submitting)
            ending = _end_before(ends_at, submitted)
            with self.cpu.working(model.name, one_thread=True):
                end = await output.finished
        finally:
            if ending is not None:
                ending.cancel()
            # Also where the caller was cancelled before the request was submitted.
            submitting.add_done_callback(_cancel)
            output.finished.cancel()
        if end.finish_reason == "cancelled":
            raise TimeoutError
        self.metrics.finished(model.name, end)
        if (timing := end.timing) is not None:
            if timing.first_token_s is not None:
                note("first_token_s", timing.first_token_s)
            if timing.together:
                note_together(timing.together)
        return TextGenerationResult(
            generated_text="".join(output.texts),
            model_id=model.name,
            finish_reason=end.finish_reason,
            usage=Usage(prompt_tokens=end.prompt_tokens, completion_tokens=end.completion_tokens),
            logprobs=None if request.logprobs is None else output.logprobs,
            prompt_logprobs=output.prompt_logprobs or None,
            markup=output.markup,
        )

    async def measurements(self) -> list[ModelReport]:
        return [*await super().measurements(), *self.metrics.read()]

    async def _submit(
        self, engine: "TextGenerationEngine", request: TextGeneration, output: GenerationOutput, stream: bool
    ) -> "GenerationRequest":
        """In a thread where it may take a while: to tokenise a long prompt, to render a chat, to compile a schema."""
        prompt: Sequence[int] | None
        calls = None
        if request.messages is not None:
            # A model renders one chat at a time: those that wait must not hold the threads that others need.
            async with self.chats.setdefault(engine, asyncio.Lock()):
                if output.finished.done():
                    raise Cancelled("the request was given up")
                has_schema = request.json_schema is not None
                prompt, markup, calls = await asyncio.to_thread(engine.chat, request.messages, request, has_schema)
            output.markup = markup if request.markup else None
        else:
            prompt = request.prompt_ids

        def submit() -> "GenerationRequest":
            ids = engine.encode(request) if prompt is None else prompt
            return engine.submit(ids, request.max_tokens, request, output.emit, stream, output.markup, calls)

        size = sum(map(len, (request.prompt_ids or (), request.prompt, request.suffix or "")))
        if request.messages is None and request.json_schema is None and size <= SHORT:
            return submit()
        return await asyncio.to_thread(submit)


def _end_before(ends_at: float, request: "GenerationRequest") -> asyncio.TimerHandle | None:
    """Ends the request so early that its answer arrives in time."""
    if math.isinf(ends_at):
        return None
    loop = asyncio.get_running_loop()
    early_s = min(EARLY_S, (ends_at - loop.time()) * EARLY_SHARE)
    return loop.call_at(ends_at - early_s, request.end_early)


def _cancel(submitted: "asyncio.Task[GenerationRequest]") -> None:
    if not submitted.cancelled() and submitted.exception() is None:
        submitted.result().cancel()
