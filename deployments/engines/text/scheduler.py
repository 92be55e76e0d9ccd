"""Which requests the next forward computes: the queue, admission to the batch, and the end of a request.

Knows requests and rows of a decoder, not tensors; it starts no thread.
"""

import threading
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from deployments.contract.errors import OutOfMemory, Overloaded, ServingError, Unavailable
from deployments.engines.errors import as_serving_error, wants_memory
from deployments.engines.text.decoders.decoder import ChunkedPrefill, Decoder
from deployments.engines.text.next_tokens import NextToken
from deployments.engines.text.request import GenerationRequest
from deployments.engines.text.stats import StatsRecorder


class Batch(NamedTuple):
    """The requests of one forward, in the order of its rows of logits: all rows that run, or none, and then prompts.

    `chunked`: there is one prompt, and this gives its next chunk. It is long, or its tokens are scored.
    """

    rows: Sequence[GenerationRequest]
    prompts: Sequence[GenerationRequest] = ()
    chunked: ChunkedPrefill | None = None

    @property
    def requests(self) -> list[GenerationRequest]:
        return [*self.rows, *self.prompts]


class RequestQueue:
    """At most `max_waiting` requests that wait for one of `max_rows` rows.

    `changed` guards it, and is notified when a request comes and at `close`.
    """

    def __init__(self, max_rows: int, max_waiting: int, recorder: StatsRecorder) -> None:
        self.max_rows = max_rows
        self.max_waiting = max_waiting
        self.changed = threading.Condition()
        self.waiting: deque[GenerationRequest] = deque()
        self.closed = False
        self.recorder = recorder

    def add(self, request: GenerationRequest) -> None:
        """From any thread. Raises Overloaded with the time after which to come again, and Unavailable once closed."""
        with self.changed:
            if self.closed:
                raise unloading()
            waiting = len(self.waiting)
            if waiting >= self.max_waiting:
                overloaded = Overloaded(f"{waiting} requests wait for this model already")
                overloaded.retry_after_ms = self.recorder.expected_wait_ms(waiting, self.max_rows)
                raise overloaded
            self.waiting.append(request)
            self.changed.notify()

    def close(self) -> None:
        """From any thread, more than once. What waits stays."""
        with self.changed:
            self.closed = True
            self.changed.notify()


class Scheduler:
    """Assigns the rows of the decoder to requests. Everything but the queue belongs to the loop's thread.

    In a round, requests are admitted and their prompts prefilled, then a long prompt gets one chunk, then every row
    gets a token. So the running rows never wait longer than for one prefill budget and one chunk. Where the decoder
    can, the rows get a token in each forward of prompts, and have no forward of their own in that round.
    """

    def __init__(
        self, decoder: Decoder, queue: RequestQueue, stop_ids: frozenset[int], joins_rows: bool = True
    ) -> None:
        """`joins_rows`: whether rows may get a token in a forward of prompts."""
        self.decoder = decoder
        self._joins_rows = joins_rows
        self.queue = queue
        self.running: list[GenerationRequest] = []  # Row i of the decoder belongs to running[i].
        self._groups: deque[list[GenerationRequest]] = deque()  # Admitted; the prompts of a group are one forward.
        self._chunked: tuple[GenerationRequest, ChunkedPrefill] | None = None  # A long prompt that has no row yet.
        self._batch: Batch | None = None  # Scheduled, and not yet computed.
        self._round_ended = True
        self._chunk_done = False
        self._rows_done = False
        self._stop_ids = stop_ids
        self._successor: Decoder | None = None
        self._most_together: int | None = None
        """Tokens of prompts that fit into memory in one forward, where more did not."""

    @property
    def rows_taken(self) -> int:
        """Rows in use, the one that a long prompt is to have included; from any thread."""
        return len(self.running) + bool(self._chunked)

    @property
    def idle(self) -> bool:
        return not (self.running or self.queue.waiting or self._chunked or self._groups or self._successor)

    def move_to(self, decoder: Decoder) -> None:
        """Another decoder computes from the next forward on, the texts under way too; from any thread."""
        with self.queue.changed:
            self._successor = decoder
            self.queue.changed.notify()

    def wait(self) -> bool:
        """Until there is work; False once the queue is closed."""
        with self.queue.changed:
            self.queue.changed.wait_for(lambda: self.queue.closed or not self.idle)
            return not self.queue.closed

    def schedule(self) -> Batch | None:
        """The next forward; None if no request needs one now."""
        if self._successor and not self._chunked:
            self._move()
        self._finish_cancelled()
        if self._round_ended:
            self._round_ended = self._chunk_done = self._rows_done = False
            if self.queue.waiting:
                self._admit()
        self._batch = self._next_batch()
        return self._batch

    def _move(self) -> None:
        """Each row becomes a prompt of all its tokens."""
        with self.queue.changed:
            assert self._successor
            before, self.decoder, self._successor = self.decoder, self._successor, None
        self._groups.extendleft([request] for request in reversed(self.running))
        self.running = []
        self._round_ended = False  # None is admitted before they have their rows.
        before.close()

    def _next_batch(self) -> Batch | None:
        if self._groups:
            return self._with_rows(Batch((), self._groups.popleft()))
        if self._chunked and not self._chunk_done:
            self._chunk_done = True
            return self._with_rows(Batch((), [self._chunked[0]], self._chunked[1]))
        self._round_ended = True
        return Batch(tuple(self.running)) if self.running and not self._rows_done else None

    def _with_rows(self, batch: Batch) -> Batch:
        """Scored prompts are computed alone: logits of all their tokens are wanted."""
        if not (self._joins_rows and self.decoder.joins_rows) or batch.prompts[0].scores_prompt:
            return batch
        self._rows_done = True
        return batch._replace(rows=tuple(self.running))

    def _finish_cancelled(self) -> None:
        for row in reversed(range(len(self.running))):
            if self.running[row].cancelled:
                self._release(row).finish("cancelled")
        if self._chunked and self._chunked[0].cancelled:
            request, self._chunked = self._chunked[0], None
            request.finish("cancelled")

    def _admit(self) -> None:
        """Takes from the queue what fits. The rest waits for the next round: the first tokens of these come before."""
        over: list[GenerationRequest] = []
        group: list[GenerationRequest] = []
        with self.queue.changed:
            while waiting := self.queue.waiting:
                request = waiting[0]
                if not request.over and not self._fits(request, group):
                    break
                waiting.popleft()
                if request.over:
                    over.append(request)
                    continue
                request.admit()
                self.queue.recorder.prompt_tokens += request.prompt_tokens
                if self._is_long(request):
                    self._chunked = request, self.decoder.begin_chunked(request.tokens, request.scores_prompt)
                else:
                    group.append(request)
        if group:
            self._groups.append(group)
        for request in over:
            request.finish("cancelled" if request.cancelled else "length")

    def _fits(self, request: GenerationRequest, group: list[GenerationRequest]) -> bool:
        """Whether a row is free, and the prompt may be computed in one forward with those of `group`."""
        if self.rows_taken + len(group) >= self.queue.max_rows:
            return False
        if self._is_long(request):
            return self._chunked is None and not group
        prompts = {tuple(one.tokens) for one in (*group, request)}  # Equal ones are computed once.
        tokens, budget = sum(map(len, prompts)), self.decoder.prefill_budget
        return not group or tokens <= (budget if self._most_together is None else min(budget, self._most_together))

    def _is_long(self, request: GenerationRequest) -> bool:
        size = self.decoder.chunk_size
        return request.scores_prompt or (size is not None and len(request.tokens) > size)

    def computed(self, batch: Batch) -> None:
        """The forward went well. Prompts that are whole have their rows now, after those that ran."""
        self._batch = None
        if batch.prompts and self.decoder.rows > len(self.running):
            if batch.chunked:
                self._chunked = None
            self.running += batch.prompts

    def postprocess(self, batch: Batch, tokens: list[NextToken | ServingError]) -> None:
        """Gives each request of a computed batch its token; those that end with it give up their rows."""
        first = 0 if batch.rows else len(self.running) - len(batch.prompts)
        for n in reversed(range(len(tokens))):
            self._append(first + n, tokens[n])

    def postprocess_verified(self, tokens: Sequence[NextToken | ServingError], counts: Sequence[int]) -> None:
        """Gives each row its `counts` tokens, up to one that ends its request."""
        end = len(tokens)
        for row in reversed(range(len(counts))):
            begin = end - counts[row]
            any(self._append(row, token) for token in tokens[begin:end])
            end = begin

    def _append(self, row: int, token: NextToken | ServingError) -> bool:
        """Whether the request ended, and gave up its row."""
        self.queue.recorder.generated_tokens += 1
        if isinstance(token, ServingError):
            self._release(row, broken=True).emit(token)
            return True
        request = self.running[row]
        reason = request.append(token.token, token.token in self._stop_ids, token.logprobs)
        if reason:
            self.queue.recorder.finished(request)
            self._release(row).finish(reason)
        return reason is not None

    def abandon(self, failure: Exception) -> None:
        """A forward failed, or what followed it.

        Prompts that were computed together are tried again one by one, so that only the one at fault fails. Of rows,
        the longest fails if memory ran out, otherwise all.
        """
        batch, self._batch = self._batch, None
        if batch and batch.prompts:
            if self.decoder.rows == len(self.running):  # None of the prompts got its row.
                self._abandon_prompts(batch, failure)
                return
            self.computed(batch)
        error = as_serving_error(failure)
        if isinstance(error, OutOfMemory) and len(self.running) > 1 and self.decoder.rows == len(self.running):
            longest = max(range(len(self.running)), key=lambda row: len(self.running[row].tokens))
            self._release(longest).emit(error)
            return
        admitted = self.drop_all()
        self.decoder.clear()
        for request in admitted:
            request.emit(error)

    def _abandon_prompts(self, batch: Batch, failure: Exception) -> None:
        if len(batch.prompts) > 1:
            if wants_memory(failure):
                self._most_together = sum(len(request.tokens) for request in batch.prompts) // 2
            self._groups.extendleft([request] for request in reversed(batch.prompts))
            return
        if batch.chunked:
            self._chunked = None
        batch.prompts[0].emit(as_serving_error(failure))

    def drop_all(self) -> list[GenerationRequest]:
        """Every admitted request; the scheduler knows none of them any more."""
        chunked = [self._chunked[0]] if self._chunked else []
        admitted = [*self.running, *chunked, *(request for group in self._groups for request in group)]
        self.running, self._chunked = [], None
        self._groups.clear()
        return admitted

    def _release(self, row: int, broken: bool = False) -> GenerationRequest:
        self.decoder.release(row, broken)
        request = self.running[row]
        last = self.running.pop()
        if row < len(self.running):
            self.running[row] = last
        return request


def unloading() -> Unavailable:
    return Unavailable("the model is being unloaded")
