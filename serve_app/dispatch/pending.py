"""One call until its response is there, whichever transport carries it."""

import asyncio
from dataclasses import dataclass, field
from typing import Protocol

from deployments.contract.chunk import Chunk
from deployments.contract.types import InferResponse
from deployments.replica.calls import Call, News, Progress, Reply, Stations, TimeLimit
from serve_app.access.caller import Caller
from serve_app.dispatch.trial import Trial


@dataclass(eq=False, kw_only=True)
class Pending:
    """A call without chunks. Cancelling the task that awaits `response` cancels the call."""

    call: Call
    family: str
    model: str
    """Its model's name, "" where the family has no models."""
    caller: Caller
    limit: TimeLimit
    response: "asyncio.Future[InferResponse]" = field(default_factory=asyncio.Future)
    arrived: bool = False
    """Whether a replica has received it."""
    replica: str = ""
    """The last one it was sent to, by its id in Serve; empty where Serve's handle chooses."""
    repeated: bool = False
    """Whether it was sent before, to a replica that was lost."""
    progress: Progress = Progress.SENT
    stations: Stations = field(default_factory=Stations)
    """What the last replica says of it."""
    trial: Trial = field(default_factory=Trial)
    condemned: bool = False
    """Whether its input is refused from now on, by what it did."""

    def deliver(self, reply: Reply | News) -> None:
        if isinstance(reply, Progress):
            self.progress = reply
        elif isinstance(reply, InferResponse):
            if not self.response.done():
                self.response.set_result(reply)
        elif isinstance(reply, dict):
            self.stations = reply
        else:
            self.take(reply)

    def take(self, chunk: Chunk) -> None:
        """Chunks are not wanted."""

    def fail(self, cause: Exception) -> None:
        if not self.response.done():
            self.response.set_exception(cause)

    def repeat(self) -> None:
        """Before it is sent once more."""
        self.repeated = True
        self.progress = Progress.SENT
        self.response = asyncio.get_running_loop().create_future()


@dataclass(eq=False, kw_only=True)
class PendingStream(Pending):
    """A call with chunks. A reader that is slow gets what came meanwhile as one chunk."""

    _unread: Chunk | None = None
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _ended: bool = False
    _delivered: int = 0  # characters
    _delivered_logprobs: int = 0
    _delivered_segments: int = 0
    _delivered_prompt: bool = False
    # Of a repeated answer, what was delivered already:
    _skip: int = 0
    _skip_logprobs: int = 0
    _skip_segments: int = 0

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

    def take(self, chunk: Chunk) -> None:
        if self.response.done():
            return
        self.limit.put_off()
        if new := self._new_part(chunk):
            self._unread = self._unread.joined(new) if self._unread else new
            self._news.set()

    def repeat(self) -> None:
        super().repeat()
        # Requests are repeatable: the chunks that were delivered come again.
        self._skip, self._skip_logprobs = self._delivered, self._delivered_logprobs
        self._skip_segments = self._delivered_segments

    def _new_part(self, chunk: Chunk) -> Chunk | None:
        text, logprobs = chunk.text[self._skip :], chunk.logprobs[self._skip_logprobs :]
        segments = chunk.segments[self._skip_segments :]
        self._skip = max(self._skip - len(chunk.text), 0)
        self._skip_logprobs = max(self._skip_logprobs - len(chunk.logprobs), 0)
        self._skip_segments = max(self._skip_segments - len(chunk.segments), 0)
        prompt = () if self._delivered_prompt else chunk.prompt_logprobs
        if not text and not logprobs and not prompt:
            return None
        self._delivered_prompt |= bool(prompt)
        self._delivered += len(text)
        self._delivered_logprobs += len(logprobs)
        self._delivered_segments += len(segments)
        return Chunk(text, chunk.index, logprobs, chunk.markup, segments, prompt)


class Transport(Protocol):
    """Carries calls to replicas."""

    async def send(self, pending: Pending) -> InferResponse:
        """Raises ReplicaLost. Cancelled, it cancels the call at its replica."""
