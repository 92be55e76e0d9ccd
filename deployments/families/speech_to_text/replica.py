"""The replica of the SpeechToText family: it decodes sound in threads, beside the one forward that runs."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from deployments.contract.chunk import Chunk
from deployments.contract.settings import FamilySettings
from deployments.contract.speech import SpeechSegment
from deployments.contract.types import SpeechToText, SpeechToTextResult
from deployments.families.computing.torch_replica import Batched, Fed, TorchReplica
from deployments.families.speech_to_text.family import SpeechToTextOptions
from deployments.families.speech_to_text.flow import AudioMemory, LongWork, Together, Turns
from deployments.metrics.meter import PREPROCESS
from deployments.replica.batching import Batcher, BatchPolicy
from deployments.replica.calls import OnChunk
from deployments.replica.model_replica import ReplicaOptions
from deployments.replica.replica import note_together
from deployments.repository.model import Model
from deployments.residency.ledger import MIB
from deployments.system.artifact_cache import ArtifactCache

if TYPE_CHECKING:
    from deployments.engines.audio.greedy import Clip
    from deployments.engines.audio.pieces import Window
    from deployments.engines.audio.piecewise import PiecewiseEngine
    from deployments.engines.audio.transcript import SpeechOptions, Transcript
    from deployments.engines.audio.whisper import WhisperEngine

LEAST_BYTES_A_SECOND = 750
"""Of a sound file: Opus at 6 kbit/s. What it is expected to hold before it is decoded."""
WRITERS = 4
"""Long requests that take turns. Each holds the features of its sound."""

Piecewise: TypeAlias = "Batched[PiecewiseEngine, Window, Any]"
SpeechModel: TypeAlias = "Piecewise | Whisper"


@dataclass(frozen=True)
class Whisper(Fed["WhisperEngine"]):
    """With the short clips that share its steps."""

    clips: "Together[Clip]"


class SpeechToTextReplica(TorchReplica[SpeechToText, SpeechModel]):
    """Answers SpeechToText requests. The forwards of all models run one after another, each on all cores."""

    stated_overhead = 512 * MIB

    def __init__(self, options: ReplicaOptions) -> None:
        super().__init__(options)
        # Imported here: only replicas import torch, not the process that builds the application.
        from deployments.engines.audio import engine, transcript, whisper
        from deployments.engines.audio.decoding import decoded

        self.load_engine, self.whisper_class = engine.load_engine, whisper.WhisperEngine
        self.options_class, self.decoded = transcript.SpeechOptions, decoded
        self.converted = ArtifactCache(self.cache / "speech", engine.CONVERTED_BYTES)
        self.memory = AudioMemory(0)
        self.use(options.settings)
        self.turns = Turns()
        self.decoders = ThreadPoolExecutor(self.cores, "decode")
        self.forwards = ThreadPoolExecutor(1, "forward")
        self.writers = ThreadPoolExecutor(WRITERS, "write")

    def use(self, settings: FamilySettings) -> None:
        from deployments.engines.audio.decoding import LIMITS

        super().use(settings)
        assert isinstance(settings, SpeechToTextOptions)
        LIMITS.seconds = self.longest_s = settings.max_audio_s
        self.memory.budget_bytes = settings.audio_budget_mb * MIB

    def load(self, model: Model) -> SpeechModel:
        engine = self.load_engine(model.folder, self.device, model.manifest.dtype, self.cores, self.converted)
        if isinstance(engine, self.whisper_class):
            work = self.cpu.working(model.name)
            return Whisper(engine, Together(work(engine.begin), work(engine.step), engine.most_clips, self.turns))
        size = min(self.batch_limit(model), engine.batch_size)
        run = self.cpu.working(model.name)(partial(self._in_turn, engine))
        return Batched(engine, Batcher(lambda: BatchPolicy(run, self.forwards, 1, size), self.batched(model)))

    async def answer(
        self, request: SpeechToText, model: Model, engine: SpeechModel, on_chunk: OnChunk | None
    ) -> SpeechToTextResult:
        options = self.options_class(
            language=request.language or None,
            translate=request.task == "translate",
            timestamps=request.timestamps is not None,
            words=request.timestamps == "word",
        )
        inner = engine.engine
        inner.check(options)
        expected_s = min(self.longest_s, len(request.audio_data) / LEAST_BYTES_A_SECOND)
        async with self.memory.reserve(int(expected_s * inner.rate) * 4) as reservation:
            decode = self.cpu.working(model.name)(self.decoded)
            with self.timed(PREPROCESS, model):
                samples = await asyncio.get_running_loop().run_in_executor(
                    self.decoders, decode, request.audio_data, inner.rate
                )
            await reservation.resize(samples.nbytes)
            segments = _Segments(on_chunk)
            if isinstance(engine, Batched):
                written = await self._piece_by_piece(engine, samples, segments)
            else:
                short = await self._short(engine, samples, options, model)
                written = short or await self._at_length(engine.engine, samples, options, segments, model)
            seconds = round(len(samples) / inner.rate, 3)
        segments.rest(written.segments)
        return SpeechToTextResult(
            text=written.text,
            segments=list(written.segments) if options.timestamps else None,
            words=list(written.words) if options.words else None,
            language=written.language,
            duration_s=seconds,
            model_id=model.name,
        )

    def _in_turn(self, engine: "PiecewiseEngine", windows: "Sequence[Window]") -> Sequence[Any]:
        with self.turns:
            return engine.run(windows)

    async def _piece_by_piece(self, engine: Piecewise, samples: np.ndarray, segments: "_Segments") -> "Transcript":
        """A few windows at a time, so that those of other requests come between."""
        reader, windows = engine.engine.reader(), engine.engine.windows(samples)
        while group := list(islice(windows, engine.engine.batch_size)):
            for window, given in zip(group, await _all(engine, group), strict=True):
                for segment in reader.feed(window, given):
                    segments(segment)
        return reader.end()

    async def _short(
        self, model: Whisper, samples: np.ndarray, options: "SpeechOptions", named: Model
    ) -> "Transcript | None":
        """None where the clip has to be transcribed alone."""
        make = self.cpu.working(named.name)(model.engine.clip)
        clip = await asyncio.get_running_loop().run_in_executor(self.decoders, make, samples, options)
        if clip is None:
            return None
        await asyncio.wrap_future(model.clips.submit(clip))
        note_together(clip.together)
        return model.engine.written(clip, len(samples) / model.engine.rate)

    async def _at_length(
        self,
        engine: "WhisperEngine",
        samples: np.ndarray,
        options: "SpeechOptions",
        segments: "_Segments",
        model: Model,
    ) -> "Transcript":
        loop, work = asyncio.get_running_loop(), LongWork(self.turns)
        note_together(1)

        def emit(segment: SpeechSegment) -> None:
            loop.call_soon_threadsafe(segments, segment)

        def write() -> "Transcript":
            with self.turns:
                work.check()
                return engine.transcribe(samples, options, emit, work)

        writing = loop.run_in_executor(self.writers, self.cpu.working(model.name)(write))
        try:
            return await asyncio.shield(writing)
        finally:
            work.over.set()
            if not writing.done():
                await asyncio.wait((writing,))  # at most a window's encoding
                writing.exception()


async def _all(engine: Piecewise, windows: "Sequence[Window]") -> list[Any]:
    return list(await asyncio.gather(*map(engine.batcher.submit, windows)))


class _Segments:
    """Segments as chunks, each once."""

    def __init__(self, on_chunk: OnChunk | None) -> None:
        self._on_chunk = on_chunk
        self._count = 0

    def __call__(self, segment: SpeechSegment) -> None:
        self._count += 1
        if self._on_chunk is not None:
            text = segment.text if self._count == 1 else f" {segment.text}"
            self._on_chunk(Chunk(text, self._count, segments=(segment,)))

    def rest(self, segments: Sequence[SpeechSegment]) -> None:
        """Emits what was not emitted as it came."""
        for segment in segments[self._count :]:
            self(segment)
