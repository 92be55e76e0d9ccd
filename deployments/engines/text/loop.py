"""The loop that runs the requests of one model: its interface, and `DecoderLoop`, one thread that steps a batch."""

import math
import threading
import time
from collections.abc import Sequence
from typing import Protocol

import torch

from deployments.engines.device import end_openmp_pool
from deployments.engines.text.decoders.decoder import Cache, Decoder, StepOutput
from deployments.engines.text.decoders.model import ModelFacts
from deployments.engines.text.next_tokens import next_tokens, scored
from deployments.engines.text.request import GenerationRequest
from deployments.engines.text.scheduler import Batch, RequestQueue, Scheduler, unloading
from deployments.engines.text.speculation.proposer import Proposer


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
    def busy_s(self) -> float:
        """For how long the step under way has been; infinite where its thread has ended by itself."""

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
        facts: ModelFacts,
        decoder: Decoder,
        queue: RequestQueue,
        info: str,
        proposer: Proposer | None = None,
    ) -> None:
        """`info`: how the decoder runs."""
        # A proposer counts the tokens of each step; a forward with prompts would give some that it has not seen.
        self.scheduler = Scheduler(decoder, queue, facts.stop_ids, joins_rows=proposer is None)
        self.max_length = facts.context
        self.info = info
        self._proposer = proposer
        self.settled = threading.Event()
        """Set while nothing is being made that may take the decoder's place."""
        self.settled.set()
        self._since: float | None = None
        self._thread = threading.Thread(target=self._run, name="text-generation", daemon=True)
        self._thread.start()

    @property
    def decoder(self) -> Decoder:
        return self.scheduler.decoder

    @property
    def runtime_info(self) -> tuple[str, ...]:
        if self._proposer and self.decoder.draft_budget:
            return (f"{self.info}, {self._proposer.note}",)
        return (self.info,)

    @property
    def running(self) -> int:
        return self.scheduler.rows_taken

    @property
    def waiting(self) -> int:
        return len(self.scheduler.queue.waiting)

    @property
    def busy_s(self) -> float:
        if not (self._thread.is_alive() or self.scheduler.queue.closed):
            return math.inf
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def nbytes(self) -> int:
        return self.decoder.nbytes + (self._proposer.nbytes if self._proposer else 0)

    @property
    def use(self) -> float:
        return self.decoder.use

    @property
    def shared_tokens(self) -> int:
        return self.decoder.shared_tokens

    def move_to(self, decoder: Decoder, info: str) -> None:
        """From any thread: another decoder of the same model goes on."""
        self.scheduler.move_to(decoder)
        self.info = info

    def add(self, request: GenerationRequest) -> None:
        self.scheduler.queue.add(request)

    def close(self) -> None:
        self.scheduler.queue.close()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        with torch.inference_mode():
            while self._wait():
                self._since = time.monotonic()
                try:
                    self._step()
                except Exception as failure:
                    self.scheduler.abandon(failure)
                self._since = None
        self._end()

    def _wait(self) -> bool:
        if self.scheduler.idle:
            end_openmp_pool()  # An idle one slows down the loops of other models.
            if self._proposer:
                self._proposer.rest()
        return self.scheduler.wait()

    def _step(self) -> None:
        batch = self.scheduler.schedule()
        if not batch:
            return
        if self._proposer and self.decoder.draft_budget and not batch.prompts:
            drafts = self._proposer.propose(batch.rows, self.decoder.draft_budget)
            if drafts:
                self._verify(batch, drafts)
                return
        output = self._forward(batch)
        self.scheduler.computed(batch)
        if output:
            requests = batch.requests[: len(output.best)]  # A chunk that is not the last one of its prompt has none.
            self.scheduler.postprocess(batch, next_tokens(output, requests))

    def _verify(self, batch: Batch, drafts: Sequence[Sequence[int]]) -> None:
        """A step that gives each row one token and those of its proposed ones that are right."""
        requests = batch.rows
        rows = [[request.tokens[-1], *draft] for request, draft in zip(requests, drafts, strict=True)]
        output, counts = self.decoder.verify(rows)
        self.scheduler.computed(batch)
        each = [request for request, count in zip(requests, counts, strict=True) for _ in range(count)]
        self.scheduler.postprocess_verified(next_tokens(output, each), counts)
        recorder = self.scheduler.queue.recorder
        recorder.draft_tokens += sum(map(len, drafts))
        recorder.accepted_tokens += len(each) - len(requests)

    def _forward(self, batch: Batch) -> StepOutput | None:
        """The logits that follow the rows, and then those that follow prompts: of chunks only the last one's."""
        tokens = [request.tokens[-1] for request in batch.rows]
        if batch.chunked:
            output, request = batch.chunked.send(tokens or None), batch.prompts[0]
            return scored(output, request) if output and request.scores_prompt else output
        if batch.prompts:
            return self.decoder.prefill([request.tokens for request in batch.prompts], tokens)
        return self.decoder.step(tokens)

    def _end(self) -> None:
        queue = self.scheduler.queue
        with queue.changed:
            requests = [*self.scheduler.drop_all(), *queue.waiting]
            queue.waiting.clear()
        self.decoder.close()
        if self._proposer:
            self._proposer.close()
        for request in requests:
            request.emit(unloading())
