"""One call until its response is there, whichever transport carries it."""

import asyncio
from dataclasses import replace
from typing import Protocol

from deployments.contract.types import Chunk, InferResponse
from deployments.replica.calls import Call, Reply
from serve_app.access.caller import Caller


class ReplicaLost(Exception):
    """The replica ended, or its connection did, before the response came."""


class Pending:
    """A call without chunks. Cancelling whoever awaits `response` cancels the call."""

    def __init__(self, call: Call, family: str, caller: Caller) -> None:
        self.call = call
        self.family = family
        self.model = call.model.name if call.model else ""
        self.caller = caller
        self.timeout_s = call.timeout_s
        self._loop = asyncio.get_running_loop()
        self.deadline = self._loop.time() + call.timeout_s
        """On the loop's clock."""
        self.response: asyncio.Future[InferResponse] = self._loop.create_future()
        self.arrived = False
        """Whether a replica has received it."""
        self.repeated = False
        """Whether it was sent before, to a replica that was lost."""

    def to_send(self) -> Call:
        return replace(self.call, timeout_s=max(self.deadline - self._loop.time(), 0.0))

    def deliver(self, reply: Reply) -> None:
        if isinstance(reply, InferResponse) and not self.response.done():
            self.response.set_result(reply)

    def fail(self, cause: Exception) -> None:
        if not self.response.done():
            self.response.set_exception(cause)

    def repeat(self) -> None:
        """Before it is sent once more."""
        self.repeated = True
        self.response = self._loop.create_future()


class PendingStream(Pending):
    """A call with chunks. A reader that is slow gets what came meanwhile as one chunk."""

    def __init__(self, call: Call, family: str, caller: Caller) -> None:
        super().__init__(call, family, caller)
        self._unread: Chunk | None = None
        self._news = asyncio.Event()
        self._ended = False
        self._delivered = 0  # characters
        self._delivered_logprobs = 0
        # Of a repeated answer, what was delivered already:
        self._skip = 0
        self._skip_logprobs = 0

    async def next_chunk(self) -> Chunk | None:
        """All text since the last chunk; None after `end`."""
        await self._news.wait()
        if not self._ended:
            self._news.clear()
        chunk, self._unread = self._unread, None
        return chunk

    def end(self) -> None:
        """No more chunks come."""
        self._ended = True
        self._news.set()

    def deliver(self, reply: Reply) -> None:
        if isinstance(reply, InferResponse):
            super().deliver(reply)
        elif not self.response.done() and (chunk := self._new_part(reply)):
            self._unread = self._unread.joined(chunk) if self._unread else chunk
            self._news.set()

    def repeat(self) -> None:
        super().repeat()
        # Requests are repeatable: the chunks that were delivered come again.
        self._skip, self._skip_logprobs = self._delivered, self._delivered_logprobs

    def _new_part(self, chunk: Chunk) -> Chunk | None:
        text, logprobs = chunk.text[self._skip :], chunk.logprobs[self._skip_logprobs :]
        self._skip = max(self._skip - len(chunk.text), 0)
        self._skip_logprobs = max(self._skip_logprobs - len(chunk.logprobs), 0)
        if not text and not logprobs:
            return None
        self._delivered += len(text)
        self._delivered_logprobs += len(logprobs)
        return Chunk(text, chunk.index, logprobs)


class Transport(Protocol):
    """Carries calls to replicas."""

    async def send(self, pending: Pending) -> InferResponse:
        """Raises ReplicaLost. Cancelled, it cancels the call at its replica."""
