"""A text as it comes, for clients: iterate over its chunks, then there is the whole result.

    with client.generate_stream("gpt-nano", "ROMEO:", max_tokens=20) as stream:
        for chunk in stream:
            print(chunk.text, end="", flush=True)
    stream.result.usage

Leaving it early takes the request back.
"""

import json
from collections.abc import AsyncGenerator, Generator, Iterator
from typing import Self

import httpx

from deployments.contract import wire
from deployments.contract.errors import Unavailable
from deployments.contract.types import Chunk, Error, InferResponse, TextGenerationResult, TokenLogprob
from deployments.replica.calls import Reply

Replies = Generator[Reply, None, None]
AsyncReplies = AsyncGenerator[Reply, None]


class _Ending:
    """The response that a stream ended with, if it has."""

    response: InferResponse | None = None

    @property
    def result(self) -> TextGenerationResult:
        """What the stream ended with. Raises ServingError."""
        if isinstance(self.response, Error):
            raise self.response.exception()
        if not isinstance(self.response, TextGenerationResult):
            raise Unavailable("the stream ended before its result")
        return self.response


class TextStream(_Ending):
    """Chunks of a text; `result` is there after the last. Raises ServingError."""

    def __init__(self, replies: Replies) -> None:
        self._replies = replies

    def __iter__(self) -> Iterator[Chunk]:
        for reply in self._replies:
            if isinstance(reply, Chunk):
                yield reply
            else:
                self.response = reply
        _ = self.result

    def close(self) -> None:
        self._replies.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()


class AsyncTextStream(_Ending):
    """TextStream for `async for` and `async with`."""

    def __init__(self, replies: AsyncReplies) -> None:
        self._replies = replies

    async def __aiter__(self) -> AsyncGenerator[Chunk, None]:
        async for reply in self._replies:
            if isinstance(reply, Chunk):
                yield reply
            else:
                self.response = reply
        _ = self.result

    async def close(self) -> None:
        await self._replies.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self.close()


def replies_in(reply: httpx.Response) -> Replies:
    """What the server-sent events of `/infer` say."""
    reader = _Reader()
    for part in reply.iter_bytes():
        yield from reader.read(part)


async def async_replies_in(reply: httpx.Response) -> AsyncReplies:
    """The same of a response that is read asynchronously."""
    reader = _Reader()
    async for part in reply.aiter_bytes():
        for said in reader.read(part):
            yield said


class _Reader:
    """Cuts events out of a body as it arrives."""

    def __init__(self) -> None:
        self._rest = b""

    def read(self, part: bytes) -> Iterator[Reply]:
        *events, self._rest = (self._rest + part).split(b"\n\n")
        for event in events:
            fields = dict(line.split(b": ", 1) for line in event.split(b"\n") if not line.startswith(b":"))
            if fields.get(b"event") == b"token":
                yield _chunk(json.loads(fields[b"data"]))
            elif fields.get(b"event") == b"result":
                yield wire.decode(fields[b"data"], wire.JSON, InferResponse)


def _chunk(token: dict[str, list[object]]) -> Chunk:
    logprobs = tuple(TokenLogprob.model_validate(logprob) for logprob in token.get("logprobs", ()))
    return Chunk(str(token["text"]), int(str(token["index"])), logprobs)
