"""The library's continuous batching, watched: paged keys and values, shared beginnings, one forward for all requests.

`transformers` schedules, keeps the pages and computes the logits. Each token is chosen here, as in our own loop, so
that whatever a request may ask for (seed, penalties, a schema, log-probabilities) means the same whoever runs it.
"""

import itertools
import logging
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.generation.continuous_batching.continuous_api import ContinuousBatchingManager
from transformers.generation.continuous_batching.requests import FutureRequestState
from transformers.generation.continuous_batching.utils import find_head_dim, find_num_key_value_heads
from transformers.utils.import_utils import is_flash_attn_2_available, is_flash_attn_3_available

from deployments.contract.errors import ServingError, Unavailable
from deployments.engines.errors import as_serving_error
from deployments.engines.text.decoders.decoder import finish
from deployments.engines.text.loop import admit, unloading
from deployments.engines.text.model import CausalModel
from deployments.engines.text.next_tokens import pick
from deployments.engines.text.paged_logits import ChoosingProcessor
from deployments.engines.text.request import Failed, Generation
from deployments.engines.text.stats import Meter

log = logging.getLogger(__name__)

PAGE = {"cuda": 256, "cpu": 32}  # Tokens; flash attention reads pages of 256.
STEP_TOKENS = 512  # So many are computed in one step, so that a long prompt does not hold up those that run.
LEAST_CACHE_BYTES = 64 << 20
WATCH_S = 0.1


class Running:
    """A request that the library has. `computed` counts the tokens of its prompt that were not shared."""

    def __init__(self, generation: Generation) -> None:
        self.generation = generation
        self.computed = 0


class PagedLoop:
    """Hands at most `max_rows` requests to the library at a time. One thread watches the library's own."""

    def __init__(self, loaded: CausalModel, max_rows: int, max_waiting: int, meter: Meter) -> None:
        self._model: PreTrainedModel | None = loaded.model
        self._stop_ids = loaded.stop_ids
        self._max_rows = max_rows
        self._max_waiting = max_waiting
        self.meter = meter
        page, pages, page_bytes = _pages(loaded, max_rows)
        self._planned_bytes = pages * page_bytes
        self._config = _configuration(page, pages, max_rows)
        self.longest = min(loaded.context, (pages - 1) * page)
        self.shared_tokens = 0
        self._names = map(str, itertools.count())
        self._waiting: deque[Generation] = deque()
        self._running: dict[str, Running] = {}
        self._suspects: deque[Generation] = deque()
        """Ran beside a request whose logits were not finite, or are it: each begins again alone."""
        self._alone = False
        """Whether a suspect runs that has not yet got a token."""
        self._tainted = False
        """Whether the cache may hold NaN. The library is started anew then."""
        self._manager: ContinuousBatchingManager | None = None
        self._wake = threading.Condition()
        self._closing = False
        self._stepping: int | None = None
        """The library's thread, once it has made a step."""
        self._thread = threading.Thread(target=self._watch, name="text-paged", daemon=True)
        self._thread.start()

    @property
    def runtime_info(self) -> tuple[str, ...]:
        return ("paged continuous batching of transformers",)

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting) + len(self._suspects)

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

    def add(self, generation: Generation) -> None:
        with self._wake:
            admit(self._closing, len(self._waiting), self._max_waiting, self._max_rows, self.meter)
            self._waiting.append(generation)
            self._wake.notify()
        if self._alive():
            self._hand_over()

    def close(self) -> None:
        with self._wake:
            self._closing = True
            self._wake.notify()
        if threading.get_ident() not in (self._thread.ident, self._stepping):
            self._thread.join()

    # What the watching thread does.

    def _watch(self) -> None:
        """Start the library when there is something to do, tell what it fails, and start it anew when it has died."""
        while self._has_work():
            if self._tainted or not self._alive():
                self._start()
            self._hand_over()
            assert self._manager is not None
            told = self._manager.get_result(timeout=WATCH_S)
            if told is not None and told.error is not None:
                self._fail([told.request_id], as_serving_error(RuntimeError(told.error)))
        self._stop()
        with self._wake:
            left = [*(one.generation for one in self._running.values()), *self._suspects, *self._waiting]
            self._running.clear()
            self._suspects.clear()
            self._waiting.clear()
        self._model = None
        for generation in left:
            generation.tell(Failed(unloading()))

    def _has_work(self) -> bool:
        """Wait for work; False once the loop closes."""
        with self._wake:
            self._wake.wait_for(lambda: self._closing or self._running or self._suspects or self._waiting)
            return not self._closing

    def _alive(self) -> bool:
        return self._manager is not None and self._manager.is_running()

    def _start(self) -> None:
        if self._manager is not None:
            if not self._tainted:
                log.error("the library's text engine has ended; it is started anew")
            self._tell_last_words(self._manager)
            self._fail(list(self._running), Unavailable("the text engine has ended and was started anew"))
            self._stop()
        assert self._model is not None
        begin: Any = self._model.init_continuous_batching
        manager: ContinuousBatchingManager = begin(GenerationConfig(do_sample=False, eos_token_id=-1), self._config)
        manager.logit_processor = ChoosingProcessor(self._prepared, self._choose)
        manager.start()  # Its thread is a daemon, since this one is.
        self._manager = manager
        self._tainted = self._alone = False

    def _tell_last_words(self, manager: ContinuousBatchingManager) -> None:
        """What the library itself said of requests before it ended."""
        while (told := manager.get_result(timeout=0)) is not None:
            if told.error is not None:
                self._fail([told.request_id], as_serving_error(RuntimeError(told.error)))

    def _stop(self) -> None:
        if self._manager is not None:
            self._manager.stop(hard_stop=True)
            self._manager = None

    # What any thread does.

    def _hand_over(self) -> None:
        """Give the library what there is room for."""
        ended: list[Generation] = []
        with self._wake:
            manager = self._manager
            while manager is not None and (queue := self._next()):
                generation = queue[0]
                if generation.cancelled or generation.limit <= 0:
                    ended.append(queue.popleft())
                    continue
                name = next(self._names)
                self._running[name] = Running(generation)
                ids, ends = list(generation.tokens), list(self._stop_ids) or [-1]
                left = generation.limit - generation.generated
                if manager.add_request(ids, name, max_new_tokens=left, eos_token_id=ends) is None:
                    del self._running[name]  # It is about to end; whoever watches starts another.
                    break
                self._alone = queue is self._suspects
                queue.popleft()
                if generation.joined_at is None:
                    generation.join()
                    self.meter.prompt_tokens += generation.prompt_tokens
        for generation in ended:
            generation.finish("cancelled" if generation.cancelled else "length")

    def _next(self) -> deque[Generation] | None:
        """Whose turn it is, where there is room."""
        if self._tainted or self._alone:
            return None
        if self._suspects:
            return None if self._running else self._suspects
        return self._waiting if self._waiting and len(self._running) < self._max_rows else None

    def _part(self, broken: Sequence[str]) -> None:
        """All attend under one mask, so that one whose logits are not finite may have spoilt the others'."""
        with self._wake:
            self._tainted = True
            if self._running.keys() - broken[:1]:  # Else it ran alone.
                log.error("the model gave logits that are not finite; each request of that step begins again, alone")
                self._suspects.extend(one.generation for one in self._running.values())
                self._running.clear()

    def _fail(self, names: Sequence[str], error: ServingError) -> None:
        for name in names:
            if one := self._release(name):
                one.tell(Failed(error))

    def _release(self, name: str) -> Generation | None:
        """Let go of a request, here and in the library, which takes note before its next step."""
        with self._wake:
            one = self._running.pop(name, None)
            if one is None:
                return None
            if self._manager is not None:
                self._manager.cancel_request(name)
        return one.generation

    # What the library's thread does, in every step.

    def _prepared(self, scheduled: Sequence[FutureRequestState]) -> None:
        """A step is about to be computed."""
        self._stepping = threading.get_ident()
        for name, one in list(self._running.items()):
            if one.generation.cancelled and self._release(name):
                one.generation.finish("cancelled")
        for future in scheduled:
            known = self._running.get(future.state.request_id)
            if known is not None and known.generation.first_at is None:
                known.computed += future.query_length
                if future.has_new_token:
                    self.shared_tokens += max(0, known.generation.prompt_tokens - known.computed)

    def _choose(self, names: Sequence[str], logits: Tensor) -> list[int]:
        """The next token of each row. Logits [rows, vocabulary]."""
        step = finish(logits)
        if broken := [name for name, finite in zip(names, step.finite, strict=True) if not finite]:
            self._part(broken)
        self._alone = False
        tokens = list(step.best)
        rows = {n: one.generation for n, name in enumerate(names) if (one := self._running.get(name))}
        picks = pick(step.of(list(rows)), list(rows.values()))
        self.meter.generated_tokens += len(rows)
        for (n, generation), picked in zip(rows.items(), picks, strict=True):
            if isinstance(picked, ServingError):
                self._fail([names[n]], picked)
                continue
            tokens[n] = picked.token
            reason = generation.extend(picked.token, picked.token in self._stop_ids, picked.likelihood)
            if reason and self._release(names[n]):
                self.meter.finished(generation)
                generation.finish(reason)
        self._hand_over()
        return tokens


def _pages(loaded: CausalModel, max_rows: int) -> tuple[int, int, int]:
    """Tokens in a page, pages, and bytes of a page.

    Pages enough for `max_rows` whole contexts, or as many bytes as the weights have.
    """
    model, config = loaded.model, loaded.model.config.get_text_config()
    page = PAGE[model.device.type]
    heads, dim = find_num_key_value_heads(config), find_head_dim(config)
    page_bytes = 2 * page * config.num_hidden_layers * heads * dim * model.dtype.itemsize
    affordable = max(loaded.nbytes, LEAST_CACHE_BYTES) // page_bytes
    return page, max(2, min(max_rows * -(-loaded.context // page) + 1, affordable)), page_bytes


def _configuration(page: int, pages: int, max_rows: int) -> ContinuousBatchingConfig:
    return ContinuousBatchingConfig(
        page_size=page,
        num_blocks=pages,
        max_batch_tokens=max(STEP_TOKENS, max_rows),
        max_requests_per_batch=max_rows,
        # The token of one step decides who is in the next, so that a step cannot be recorded or prepared ahead.
        use_async_batching=False,
        use_cuda_graph=False,
        # Never kernels out of the network.
        auto_switch_to_flash=is_flash_attn_2_available() or is_flash_attn_3_available(),
    )
