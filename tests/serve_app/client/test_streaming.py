"""Streams: every event however its bytes are split, the result at the end, and the request cancelled on early exit."""

import asyncio
import gc
import json
import threading
from collections.abc import AsyncIterator
from itertools import pairwise

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.contract.chunk import Chunk
from deployments.contract.errors import Cancelled, ModelNotFound, Unavailable
from deployments.contract.speech import SpeechSegment
from deployments.contract.text_generation import Alternative, PromptToken, TokenLogprob
from deployments.contract.types import Error, InferResponse, SpeechToTextResult, TextGenerationResult
from serve_app.client import AsyncModelRuntimeClient, ModelRuntimeClient
from serve_app.client.streaming import AsyncTextStream, Replies, replies_in
from serve_app.http.sse import started, union_events
from tests.serve_app.client.test_client import interrupt_once
from tests.support.http_server import RESULT, STALLED, Answering

# Line ends of Unicode that are none in an event stream, parts of surrogate pairs, an end of an event in a text.
TEXTS = ["a", "é", "\u2028", "\u2029\x85", "\x0b\x0c\x1c", "🦜", "\r\n\n", "data: x", ": ", ""]
LOGPROBS = (
    TokenLogprob(token="é", logprob=-0.5, utf8=[195, 169], top=[Alternative(token="e", logprob=-1.5, utf8=[101])]),
)


async def body_of(*replies: Chunk | InferResponse) -> bytes:
    """As the server writes them."""

    async def given() -> Replies:
        for reply in replies:
            yield reply

    return b"".join([event async for event in union_events(await started(given()))])


async def read(parts: list[bytes]) -> list[Chunk | InferResponse]:
    async def content() -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    headers = {"content-type": "text/event-stream; charset=utf-8"}
    return [reply async for reply in replies_in(httpx.Response(200, headers=headers, content=content()))]


@given(
    texts=st.lists(st.sampled_from(TEXTS) | st.text(), max_size=5),
    cuts=st.lists(st.floats(0, 1), max_size=6),
    comments=st.booleans(),
)
async def test_what_the_server_writes_is_read_however_it_is_split(
    texts: list[str], cuts: list[float], comments: bool
) -> None:
    chunks = [Chunk(text, index, LOGPROBS if index % 2 else ()) for index, text in enumerate(texts, 1)]
    result = TextGenerationResult(generated_text="".join(texts))
    body = await body_of(*chunks, result)
    if comments:
        body = b": still at it\n\n" + body.replace(b"\n\n", b"\n\n: still at it\n\n")
    places = sorted({0, len(body), *(int(cut * len(body)) for cut in cuts)})
    parts = [body[start:end] for start, end in pairwise(places)]
    assert await read(parts) == [*chunks, result]


async def test_every_byte_may_come_alone() -> None:
    chunk = Chunk("".join(TEXTS), 1)
    body = await body_of(chunk, RESULT)
    assert await read([body[at : at + 1] for at in range(len(body))]) == [chunk, RESULT]


async def test_the_first_event_tells_the_prompt() -> None:
    told = tuple(PromptToken(token="é", utf8=[195, 169], logprob=logprob, top=[]) for logprob in (None, -0.5))
    chunks = [Chunk("", 0, prompt_logprobs=told), Chunk("a", 1, LOGPROBS)]
    assert await read([await body_of(*chunks, RESULT)]) == [*chunks, RESULT]
    assert chunks[0].joined(chunks[1]) == Chunk("a", 1, LOGPROBS, prompt_logprobs=told)


async def test_segments_are_events_of_their_own() -> None:
    """Also those that a slow reader gets together."""
    one, two = (SpeechSegment(start_s=at, end_s=at + 0.5, text=f"é\u2028{at}") for at in (0, 1))
    result = SpeechToTextResult(text=f"{one.text} {two.text}", segments=[one, two])
    body = await body_of(Chunk(f"{one.text} {two.text}", 2, segments=(one, two)), result)
    assert body.startswith(b"event: segment\ndata: {")
    assert await read([body]) == [
        Chunk(one.text, 1, segments=(one,)),
        Chunk(f" {two.text}", 2, segments=(two,)),
        result,
    ]


async def test_line_ends_of_unicode_may_come_as_they_are() -> None:
    data = json.dumps({"text": "\u2028\x85\u2029", "index": 1}, ensure_ascii=False)
    assert await read([f"event: token\ndata: {data}\n\n".encode()]) == [Chunk("\u2028\x85\u2029", 1)]


async def test_unknown_events_are_skipped() -> None:
    assert await read([b"event: other\ndata: x\n\nevent: token\ndata: " + b'{"text":"a","index":1}\n\n']) == [
        Chunk("a", 1)
    ]


async def test_an_event_that_is_cut_off_is_no_event() -> None:
    body = await body_of(Chunk("a", 1), RESULT)
    assert await read([body[:-1]]) == [Chunk("a", 1)]


async def ending_with(reply: InferResponse | None) -> Replies:
    yield Chunk("a", 1)
    if reply is not None:
        yield reply


@pytest.mark.parametrize(
    ("reply", "failure"),
    [(None, Unavailable), (Error(message="no", code="model_not_found"), ModelNotFound)],
)
async def test_a_stream_without_a_result_raises(reply: InferResponse | None, failure: type[Exception]) -> None:
    stream = AsyncTextStream(ending_with(reply), TextGenerationResult)
    chunks = aiter(stream)
    assert await anext(chunks) == Chunk("a", 1)
    with pytest.raises(failure):
        await anext(chunks)
    with pytest.raises(failure):
        _ = stream.result


def test_a_sync_stream_gives_the_chunks_and_the_result(server: Answering) -> None:
    with ModelRuntimeClient(server.url) as client, client.generate_stream("m", "p", max_tokens=3) as stream:
        assert next(iter(stream)) == Chunk("a", 1)
        assert list(stream) == [Chunk("a", 2), Chunk("a", 3)]
        assert stream.result == RESULT
        assert list(stream) == []


def test_a_sync_stream_raises_what_ends_it(server: Answering) -> None:
    server.answer = Error(message="no model 'm'", code="model_not_found")
    with ModelRuntimeClient(server.url) as client, client.generate_stream("m", "p", max_tokens=3) as stream:
        with pytest.raises(ModelNotFound):
            list(stream)
        with pytest.raises(ModelNotFound):
            _ = stream.result


async def test_leaving_an_async_stream_early_cancels_the_request(server: Answering) -> None:
    async with AsyncModelRuntimeClient(server.url) as client:
        async with client.generate_stream("m", STALLED, max_tokens=3) as stream:
            async for _ in stream:
                break
        assert await wait(server.cancelled)


async def wait(event: threading.Event) -> bool:
    return await asyncio.to_thread(event.wait, 30)


def test_leaving_a_sync_stream_early_cancels_the_request(server: Answering) -> None:
    with ModelRuntimeClient(server.url) as client:
        with client.generate_stream("m", STALLED, max_tokens=3) as stream:
            assert next(iter(stream)) == Chunk("a", 1)
        assert server.cancelled.wait(30)
        with pytest.raises(Cancelled):
            list(stream)


def test_dropping_a_sync_stream_cancels_the_request(server: Answering) -> None:
    with ModelRuntimeClient(server.url) as client:
        for _ in client.generate_stream("m", STALLED, max_tokens=3):
            break
        gc.collect()
        assert server.cancelled.wait(30)


@pytest.mark.alone
def test_an_interrupt_of_a_sync_stream_cancels_the_request(server: Answering) -> None:
    interrupt_once(server.arrived)
    with ModelRuntimeClient(server.url) as client:
        with pytest.raises(KeyboardInterrupt), client.generate_stream("m", STALLED, max_tokens=3) as stream:
            list(stream)
        assert server.cancelled.wait(30)


def test_closing_the_client_cancels_its_streams(server: Answering) -> None:
    client = ModelRuntimeClient(server.url)
    stream = client.generate_stream("m", STALLED, max_tokens=3)
    assert next(iter(stream)) == Chunk("a", 1)
    client.close()
    assert server.cancelled.wait(30)
    stream.close()
