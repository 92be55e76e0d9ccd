"""The continuous batching of `transformers` with a watchdog: paged KV cache, shared prefixes, one forward for all.

The library schedules, keeps the pages and computes the logits. Next tokens are chosen here as in our own loop, so that
every sampling option means the same in both.
"""

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation.continuous_batching.continuous_api import ContinuousBatchingManager
from transformers.generation.continuous_batching.requests import FutureRequestState

from deployments.contract.errors import Internal, ServingError, Unavailable
from deployments.engines.errors import as_serving_error
from deployments.engines.text.decoders.decoder import SCORED, step_output
from deployments.engines.text.decoders.model import CausalModel, inputs_of
from deployments.engines.text.next_tokens import next_tokens, scored
from deployments.engines.text.paged_library import NextTokenProcessor, configuration, pages
from deployments.engines.text.request import GenerationRequest
from deployments.engines.text.scheduler import RequestQueue, unloading

log = logging.getLogger(__name__)

WATCH_S = 0.1


@dataclass(slots=True)
class Running:
    """A request that the library has. `prefilled`: tokens of its prompt that it computed, not shared."""

    request: GenerationRequest
    prefilled: int = 0


class PagedLoop:
    """Hands at most `queue.max_rows` requests to the library at a time. One thread watches the library's own."""

    runtime_info = ("paged continuous batching of transformers",)

    def __init__(self, loaded: CausalModel, queue: RequestQueue) -> None:
        self._model: PreTrainedModel | None = loaded.model
        self._stop_ids = loaded.stop_ids
        page, count, page_bytes = pages(loaded, queue.max_rows)
        self._planned_bytes = count * page_bytes
        self._config = configuration(page, count, queue.max_rows)
        self.max_length = min(loaded.context, (count - 1) * page)
        self.shared_tokens = 0
        self._names = map(str, itertools.count())
        self._queue = queue  # Its lock guards what follows.
        self._running: dict[str, Running] = {}
        self._suspects: deque[GenerationRequest] = deque()
        """Requests of a step whose logits were not finite. Each begins again, with no other beside it."""
        self._exclusive = False
        """Whether a suspect runs that has not yet got a token."""
        self._tainted = False
        """Whether the cache may hold NaN. The library is restarted then."""
        self._manager: ContinuousBatchingManager | None = None
        self._stepping: int | None = None
        """The library's thread, once it has made a step."""
        self._stepped_at = time.monotonic()
        self._thread = threading.Thread(target=self._watch, name="text-paged", daemon=True)
        self._thread.start()

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._queue.waiting) + len(self._suspects)

    @property
    def busy_s(self) -> float:
        return time.monotonic() - self._stepped_at if self._running else 0.0

    @property
    def nbytes(self) -> int:
        processor = self._manager.batch_processor if self._manager else None
        if processor is None:
            return self._planned_bytes if self._model is not None else 0
        masks = getattr(processor.inputs_and_outputs, "attention_mask", None) or {}
        return int(processor.cache.cache_tensor.nbytes + sum(mask.nbytes for mask in masks.values()))

    @property
    def use(self) -> float:
        processor = self._manager.batch_processor if self._manager else None
        return 1 - float(processor.cache.compute_free_capacity()) if processor else 0.0

    def add(self, request: GenerationRequest) -> None:
        self._queue.add(request)
        if self._alive():
            self._hand_over()

    def close(self) -> None:
        self._queue.close()
        if threading.get_ident() not in (self._thread.ident, self._stepping):
            self._thread.join()

    # What the watching thread does.

    def _watch(self) -> None:
        """Start the library when there is work, emit the failures that it reports, restart it when it has died."""
        while self._has_work():
            try:
                if self._tainted or not self._alive():
                    self._start()
                self._hand_over()
                assert self._manager is not None
                self._emit_error(self._manager, WATCH_S)
            except Exception as failure:  # The library cannot even be started for this model, say.
                self._stop()
                self._fail_all(as_serving_error(failure))
        self._stop()
        self._model = None
        self._fail_all(unloading())

    def _fail_all(self, error: ServingError) -> None:
        waiting = self._queue.waiting
        with self._queue.changed:
            requests = [*(one.request for one in self._running.values()), *self._suspects, *waiting]
            for some in (self._running, self._suspects, waiting):
                some.clear()
        for request in requests:
            request.emit(error)

    def _has_work(self) -> bool:
        """Wait for work; False once the loop closes."""
        queue = self._queue
        with queue.changed:
            queue.changed.wait_for(lambda: queue.closed or self._running or self._suspects or queue.waiting)
            return not queue.closed

    def _alive(self) -> bool:
        return self._manager is not None and self._manager.is_running()

    def _start(self) -> None:
        if self._manager is not None:
            if not self._tainted:
                log.error("the library's text engine has ended; it is restarted")
            while self._emit_error(self._manager, 0):
                pass  # What it reported before it ended.
            self._fail(list(self._running), Unavailable("the text engine has ended and was started anew"))
            self._stop()
        assert self._model is not None
        begin: Any = self._model.init_continuous_batching
        manager: ContinuousBatchingManager = begin(GenerationConfig(do_sample=False, eos_token_id=-1), self._config)
        manager.logit_processor = NextTokenProcessor(self._before_step, self._next_tokens)
        manager.start()  # Its thread is a daemon, since this one is.
        self._manager = manager
        self._tainted = self._exclusive = False

    def _emit_error(self, manager: ContinuousBatchingManager, timeout_s: float) -> bool:
        """Fail the request that the library reports next, if it failed; whether it reports one in time."""
        result = manager.get_result(timeout=timeout_s)
        if result is not None and result.error is not None:
            self._fail([result.request_id], as_serving_error(RuntimeError(result.error)))
        return result is not None

    def _stop(self) -> None:
        if self._manager is not None:
            self._manager.stop(hard_stop=True)
            self._manager = None

    # What any thread does.

    def _hand_over(self) -> None:
        """Give the library the requests that fit."""
        over: list[GenerationRequest] = []
        with self._queue.changed:
            manager = self._manager
            while manager is not None and (queue := self._next_queue()):
                request = queue[0]
                if request.over:
                    over.append(queue.popleft())
                    continue
                self._stepped_at = self._stepped_at if self._running else time.monotonic()
                name = next(self._names)
                self._running[name] = Running(request)
                ids, ends = list(request.tokens), list(self._stop_ids) or [-1]
                if request.sampling.ignore_eos:
                    ends = [-1]
                left = max(1, request.max_new_tokens - request.generated)
                if manager.add_request(ids, name, max_new_tokens=left, eos_token_id=ends) is None:
                    del self._running[name]  # The library is about to end; the watching thread starts another.
                    break
                self._exclusive = queue is self._suspects
                queue.popleft()
                if request.admitted_at is None:
                    request.admit()
                    self._queue.recorder.prompt_tokens += request.prompt_tokens
        for request in over:
            request.finish("cancelled" if request.cancelled else "length")

    def _next_queue(self) -> deque[GenerationRequest] | None:
        """The queue whose first request is to be handed over now."""
        if self._tainted or self._exclusive:
            return None
        if self._suspects:
            return None if self._running else self._suspects
        return self._queue.waiting if self._queue.waiting and len(self._running) < self._queue.max_rows else None

    def _suspect_all(self, broken: Sequence[str]) -> None:
        """All rows attend under one mask, so one whose logits are not finite may have spoilt the others'."""
        with self._queue.changed:
            self._tainted = True
            if self._running.keys() - broken[:1]:  # Else it ran exclusively.
                log.error("the model gave logits that are not finite; the requests of that step begin again one by one")
                self._suspects.extend(one.request for one in self._running.values())
                self._running.clear()

    def _fail(self, names: Sequence[str], error: ServingError) -> None:
        for name in names:
            if request := self._release(name):
                request.emit(error)

    def _release(self, name: str) -> GenerationRequest | None:
        """Drops a request, here and in the library, which drops it before its next step."""
        with self._queue.changed:
            one = self._running.pop(name, None)
            if one is None:
                return None
            if self._manager is not None:
                self._manager.cancel_request(name)
        return one.request

    # What the library's thread does, in every step.
    def _before_step(self, scheduled: Sequence[FutureRequestState]) -> None:
        self._stepping, self._stepped_at = threading.get_ident(), time.monotonic()
        for name, one in list(self._running.items()):
            if one.request.cancelled and self._release(name):
                one.request.finish("cancelled")
        for future in scheduled:
            running = self._running.get(future.state.request_id)
            if running is not None and running.request.first_token_at is None:
                running.prefilled += future.query_length
                if future.has_new_token:
                    self.shared_tokens += max(0, running.request.prompt_tokens - running.prefilled)

    def _next_tokens(self, names: Sequence[str], logits: Tensor) -> list[int]:
        """The next token of each row. Logits [rows, vocabulary]."""
        output = step_output(logits)
        if broken := [name for name, finite in zip(names, output.finite, strict=True) if not finite]:
            self._suspect_all(broken)
        self._exclusive = False
        for name in names:
            if (one := self._running.get(name)) and one.request.scores_prompt:
                self._score(name, one.request)
        tokens = list(output.best)
        rows = {n: one.request for n, name in enumerate(names) if (one := self._running.get(name))}
        chosen = next_tokens(output.of(list(rows)), list(rows.values()))
        self._queue.recorder.generated_tokens += len(rows)
        for (n, request), token in zip(rows.items(), chosen, strict=True):
            if isinstance(token, ServingError):
                self._fail([names[n]], token)
                continue
            tokens[n] = token.token
            reason = request.append(token.token, token.token in self._stop_ids, token.logprobs)
            if reason and self._release(names[n]):
                self._queue.recorder.finished(request)
                request.finish(reason)
        self._hand_over()
        return tokens

    def _score(self, name: str, request: GenerationRequest) -> None:
        """By a forward of the prompt alone: the library computes the logits after its last token only."""
        assert self._model is not None
        try:
            with torch.inference_mode():
                logits = self._model(**inputs_of(self._model, request.tokens)).logits[0]
            last = [scored(step_output(part), request) for part in torch.split(logits, SCORED)][-1]
            if last and not last.finite[0]:
                self._fail([name], Internal("the model failed on this request"))
        except Exception as failure:
            self._fail([name], as_serving_error(failure))
