"""A text as it is written: iterate over its chunks, then `result` is there.

    with client.generate_stream("gpt-nano", "ROMEO:", max_tokens=20) as stream:
        for chunk in stream:
            print(chunk.text, end="", flush=True)
    stream.result.usage

Leaving a stream early cancels its request.
"""

from collections.abc import AsyncGenerator, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, aclosing
from functools import partial
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

import httpx
from httpx_sse import EventSource
from pydantic import TypeAdapter

from deployments.contract import wire
from deployments.contract.chunk import Chunk
from deployments.contract.errors import Unavailable
from deployments.contract.speech import SpeechSegment
from deployments.contract.types import Error, InferResponse
from serve_app.client.blocking import Call, Portal

Replies = AsyncGenerator[Chunk | InferResponse, None]
"""Any number of chunks, then the response."""
ResultT = TypeVar("ResultT", bound=InferResponse)
_CHUNK = TypeAdapter(Chunk)


class AsyncTextStream(AbstractAsyncContextManager["AsyncTextStream[ResultT]"], Generic[ResultT]):
    """Chunks of a text, for `async for`; `result` is there after the last. Raises ServingError."""

    def __init__(self, replies: Replies, kind: type[ResultT]) -> None:
        self._replies = replies
        self._kind = kind
        self._response: InferResponse | None = None

    @property
    def result(self) -> ResultT:
        """The response that ended the stream. Raises ServingError."""
        if isinstance(self._response, Error):
            raise self._response.exception()
        if not isinstance(self._response, self._kind):
            raise Unavailable("the stream ended before its result")
        return self._response

    async def __aiter__(self) -> AsyncGenerator[Chunk, None]:
        async for reply in self._replies:
            if isinstance(reply, Chunk):
                yield reply
            else:
                self._response = reply
        _ = self.result

    async def close(self) -> None:
        await self._replies.aclose()

    async def __aexit__(self, *failure: object) -> None:
        await self.close()


class TextStream(AbstractContextManager["TextStream[ResultT]"], Generic[ResultT]):
    """AsyncTextStream for `for` and `with`. Chunks are read as they arrive, also while the caller does other things."""

    def __init__(self, stream: AsyncTextStream[ResultT], portal: Portal) -> None:
        self._stream = stream
        self._portal = portal
        self._chunks: SimpleQueue[Chunk | None] = SimpleQueue()
        self._reading: Call[None] | None = None

    @property
    def result(self) -> ResultT:
        """The response that ended the stream. Raises ServingError."""
        return self._stream.result

    def __iter__(self) -> Iterator[Chunk]:
        # One switch between threads for each chunk, where asking for it would take two.
        self._reading = self._reading or self._portal.start(partial(_read, self._stream, self._chunks))
        while (chunk := self._chunks.get()) is not None:
            yield chunk
        self._chunks.put(None)
        self._reading.result()

    def close(self) -> None:
        if self._reading:
            self._reading.cancel()

    def __exit__(self, *failure: object) -> None:
        self.close()

    def __del__(self) -> None:
        if self._reading:
            self._reading.abandon()


async def _read(stream: AsyncTextStream[Any], chunks: "SimpleQueue[Chunk | None]") -> None:
    try:
        async for chunk in stream:
            chunks.put(chunk)
    finally:
        chunks.put(None)


async def replies_in(response: httpx.Response) -> Replies:
    """The chunks and the response in the server-sent events of `/infer`."""
    segments = 0
    async with aclosing(EventSource(response).aiter_sse()) as events:
        async for event in events:
            if event.event == "token":
                yield _CHUNK.validate_json(event.data)
            elif event.event == "segment":
                segment = SpeechSegment.model_validate_json(event.data)
                segments += 1
                yield Chunk(segment.text if segments == 1 else f" {segment.text}", segments, segments=(segment,))
            elif event.event == "result":
                yield wire.decode(event.data.encode(), wire.JSON, InferResponse)
