"""The loop that runs the requests of one model: its interface, and `DecoderLoop`, one thread that steps a batch."""

import threading
from pathlib import Path
from typing import Protocol

import torch

from deployments.engines.probes import ProbeCache
from deployments.engines.text.decoders.decoder import Cache, Decoder, StepOutput
from deployments.engines.text.decoders.single import ClosedDecoder
from deployments.engines.text.decoders.slots import SlotDecoder
from deployments.engines.text.model import CausalModel
from deployments.engines.text.next_tokens import next_tokens
from deployments.engines.text.request import GenerationRequest
from deployments.engines.text.scheduler import Batch, RequestQueue, Scheduler, unloading
from deployments.engines.text.stats import StatsRecorder
from deployments.engines.text.threads import OpenMPPool


class EngineLoop(Cache, Protocol):
    """Continuous batching: requests are added and end between steps. Events are emitted from a thread of the loop."""

    @property
    def runtime_info(self) -> tuple[str, ...]:
        """How the model runs, for the status page."""

    @property
    def running(self) -> int:
        """Requests that have a row."""

    @property
    def waiting(self) -> int:
        """Requests in the queue."""

    @property
    def max_length(self) -> int:
        """Tokens that a request may have, its prompt included."""

    def add(self, request: GenerationRequest) -> None:
        """Queue a request; from any thread. Raises Overloaded, and Unavailable once closed."""

    def close(self) -> None:
        """End its threads, fail what is running, give the memory back. May be called more than once."""


class DecoderLoop:
    """Our own loop over a decoder."""

    def __init__(
        self,
        loaded: CausalModel,
        decoder: Decoder,
        max_rows: int,
        max_waiting: int,
        recorder: StatsRecorder,
        runtime_info: tuple[str, ...],
    ) -> None:
        self.decoder = decoder
        self.scheduler = Scheduler(
            decoder, RequestQueue(max_waiting, max_rows, recorder), loaded.stop_ids, max_rows, recorder
        )
        self.max_length = loaded.context
        self._runtime_info = runtime_info
        self._pool = OpenMPPool(torch.get_num_threads() if loaded.model.device.type == "cpu" else 1)
        self._thread = threading.Thread(target=self._run, name="text-generation", daemon=True)
        self._thread.start()

    @property
    def runtime_info(self) -> tuple[str, ...]:
        aot = self.decoder.aot if isinstance(self.decoder, SlotDecoder) else None
        return (*self._runtime_info, *aot.runtime_info) if aot else self._runtime_info

    @property
    def running(self) -> int:
        return self.scheduler.rows_taken

    @property
    def waiting(self) -> int:
        return len(self.scheduler.queue.waiting)

    @property
    def nbytes(self) -> int:
        return self.decoder.nbytes

    @property
    def use(self) -> float:
        return self.decoder.use

    @property
    def shared_tokens(self) -> int:
        return self.decoder.shared_tokens

    def compile_from(self, folder: Path, linears: str, probes: ProbeCache) -> None:
        """Use compiled forwards of the folder's model, and compile them once it is used much. Before any request."""
        if isinstance(self.decoder, SlotDecoder):
            self.decoder.compile_from(folder, linears, probes)

    def add(self, request: GenerationRequest) -> None:
        self.scheduler.queue.add(request)

    def close(self) -> None:
        self.scheduler.queue.close()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        with torch.inference_mode():
            while self._wait():
                try:
                    self._step()
                except Exception as failure:
                    self.scheduler.abandon(failure)
                self._pool.adjust()
        self._end()

    def _wait(self) -> bool:
        if self.scheduler.idle:
            self._pool.pause()
        return self.scheduler.wait()

    def _step(self) -> None:
        batch = self.scheduler.schedule()
        if batch and (output := self._forward(batch)):
            self.scheduler.postprocess(batch, next_tokens(output, batch.requests))

    def _forward(self, batch: Batch) -> StepOutput | None:
        """The logits that follow each request; None after a chunk that is not the last one of its prompt."""
        if batch.chunked:
            return batch.chunked.next_chunk()
        if batch.phase == "prefill":
            return self.decoder.prefill([request.tokens for request in batch.requests])
        return self.decoder.step([request.tokens[-1] for request in batch.requests])

    def _end(self) -> None:
        queue = self.scheduler.queue
        with queue.changed:
            requests = [*self.scheduler.drop_all(), *queue.waiting]
            queue.waiting.clear()
        self.decoder.close()
        self.decoder = self.scheduler.decoder = ClosedDecoder()
        for request in requests:
            request.emit(unloading())
