"""What runs the requests of one model: the interface, and our own loop, one thread that steps a batch."""

import threading
from collections import deque
from pathlib import Path
from typing import Protocol

import torch

from deployments.contract.errors import Overloaded, Unavailable
from deployments.engines.probes import ProbeCache
from deployments.engines.text.decoders.decoder import Cache, Decoder
from deployments.engines.text.decoders.single import ClosedDecoder
from deployments.engines.text.decoders.slots import SlotDecoder
from deployments.engines.text.model import CausalModel
from deployments.engines.text.request import Failed, Generation
from deployments.engines.text.scheduler import Accepts, Batch
from deployments.engines.text.stats import Meter
from deployments.engines.text.threads import OpenMPPool


class Loop(Cache, Protocol):
    """Requests join and leave between steps. What callers are told, they are told from a thread of the loop."""

    @property
    def runtime_info(self) -> tuple[str, ...]:
        """What a status page should say of it."""

    @property
    def running(self) -> int:
        """How many requests have a row."""

    @property
    def waiting(self) -> int:
        """How many requests wait for one."""

    @property
    def longest(self) -> int:
        """How many tokens a request may have, its prompt included."""

    def add(self, generation: Generation) -> None:
        """Queue a request; from any thread. Raises Overloaded, and Unavailable once closed."""

    def close(self) -> None:
        """End its threads, fail what is running, give the memory back. May be called more than once."""


class StepLoop:
    """Our own loop over a decoder."""

    def __init__(
        self,
        loaded: CausalModel,
        decoder: Decoder,
        max_rows: int,
        max_waiting: int,
        meter: Meter,
        runtime_info: tuple[str, ...],
    ) -> None:
        self.longest = loaded.context
        self._runtime_info = runtime_info
        self._max_rows = max_rows
        self._max_waiting = max_waiting
        self._meter = meter
        self._batch = Batch(decoder, loaded.stop_ids, max_rows, meter)
        self._team = OpenMPPool(torch.get_num_threads() if loaded.model.device.type == "cpu" else 1)
        self._waiting: deque[Generation] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="text-generation", daemon=True)
        self._thread.start()

    @property
    def runtime_info(self) -> tuple[str, ...]:
        decoder = self._batch.decoder
        programs = decoder.programs if isinstance(decoder, SlotDecoder) else None
        return (*self._runtime_info, *programs.runtime_info) if programs else self._runtime_info

    @property
    def running(self) -> int:
        return len(self._batch.requests)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def nbytes(self) -> int:
        return self._batch.decoder.nbytes

    @property
    def use(self) -> float:
        return self._batch.decoder.use

    @property
    def shared_tokens(self) -> int:
        return self._batch.decoder.shared_tokens

    def compile_from(self, folder: Path, linears: str, probes: ProbeCache) -> None:
        """Look for what is compiled, and make it once the model is used much. Before any request."""
        if isinstance(self._batch.decoder, SlotDecoder):
            self._batch.decoder.compile_from(folder, linears, probes)

    def add(self, generation: Generation) -> None:
        with self._wake:
            admit(self._closing, len(self._waiting), self._max_waiting, self._max_rows, self._meter)
            self._waiting.append(generation)
            self._wake.notify()

    def close(self) -> None:
        with self._wake:
            self._closing = True
            self._wake.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        with torch.inference_mode():
            while self._has_work():
                self._team.adjust()
                try:
                    self._batch.step(self._take)
                except Exception as failure:
                    self._batch.abandon(failure)
        self._end()

    def _has_work(self) -> bool:
        """Wait for work; False once the loop closes."""
        with self._wake:
            if not (self._batch.requests or self._waiting):
                self._team.pause()
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
        for generation in left:
            generation.tell(Failed(unloading()))


def admit(closing: bool, waiting: int, max_waiting: int, max_rows: int, meter: Meter) -> None:
    """Raises Overloaded where the queue is full, with the time after which there will be room, and Unavailable."""
    if closing:
        raise unloading()
    if waiting >= max_waiting:
        overloaded = Overloaded(f"{waiting} requests wait for this model already")
        overloaded.retry_after_ms = meter.wait_ms(waiting, max_rows)
        raise overloaded


def unloading() -> Unavailable:
    return Unavailable("the model is being unloaded")
