"""Streams on a real Ray: the same text by every way, in whole characters."""

import asyncio
import os
import random
from collections.abc import Callable
from contextlib import suppress

import httpx
import psutil
import pytest

from deployments.contract.chunk import Chunk
from deployments.contract.errors import ModelNotFound, PromptTooLong
from deployments.contract.types import TextGenerationResult
from serve_app.client import AsyncModelRuntimeClient, ModelRuntimeClient
from tests.runtime.test_operation import metric
from tests.support.running import Running
from tests.support.text_models import CONTEXT, PROMPTS, Reference
from tests.support.until import wait_until

Stream = Callable[[Running, str, str], tuple[list[Chunk], TextGenerationResult]]
TOKENS = 40
TOGETHER = 60
POOLED = 12  # Threads that asyncio and gRPC keep, made when they are first needed.


def with_the_client(target: str) -> Stream:
    def stream(runtime: Running, model_id: str, prompt: str) -> tuple[list[Chunk], TextGenerationResult]:
        with (
            ModelRuntimeClient(getattr(runtime, target)) as client,
            client.generate_stream(model_id, prompt, TOKENS) as text,
        ):
            return list(text), text.result

    return stream


def with_the_async_client(target: str) -> Stream:
    def stream(runtime: Running, model_id: str, prompt: str) -> tuple[list[Chunk], TextGenerationResult]:
        async def ask() -> tuple[list[Chunk], TextGenerationResult]:
            async with (
                AsyncModelRuntimeClient(getattr(runtime, target)) as client,
                client.generate_stream(model_id, prompt, TOKENS) as text,
            ):
                return [chunk async for chunk in text], text.result

        return asyncio.run(ask())

    return stream


STREAMS = {
    "client": with_the_client("url"),
    "client-on-handle": with_the_client("handle"),
    "async-client": with_the_async_client("url"),
    "async-client-on-handle": with_the_async_client("handle"),
}


def threads_of_replicas() -> dict[int, int]:
    """Of each process; more may come and go with the load."""
    threads = {}
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # Also where it has ended and nobody has waited for it yet.
            if "ServeReplica" in " ".join(process.cmdline()):
                threads[process.pid] = process.num_threads()
    return threads


@pytest.fixture(params=STREAMS)
def stream(request: pytest.FixtureRequest) -> Stream:
    return STREAMS[request.param]


@pytest.mark.parametrize("prompt", PROMPTS[:3])
def test_the_chunks_are_the_text_that_transformers_gives(runtime: Running, stream: Stream, prompt: str) -> None:
    chunks, result = stream(runtime, "text", prompt)
    assert "".join(chunk.text for chunk in chunks) == result.generated_text
    assert [chunk.index for chunk in chunks] == sorted({chunk.index for chunk in chunks})
    assert result.usage
    assert chunks[-1].index <= result.usage.completion_tokens
    assert Reference(runtime.models / "text").agrees(prompt, TOKENS, result.generated_text)


def test_what_fails_before_the_first_token_is_raised_by_its_code(runtime: Running, stream: Stream) -> None:
    with pytest.raises(ModelNotFound):
        stream(runtime, "nope", "a")
    with pytest.raises(PromptTooLong):
        stream(runtime, "text", "a" * 4000)


@pytest.mark.parametrize(("model_id", "prompt", "status"), [("nope", "a", 404), ("text", "a" * 4000, 422)])
def test_and_has_its_own_status_over_http(runtime: Running, model_id: str, prompt: str, status: int) -> None:
    request = {"model_id": model_id, "prompt": prompt, "max_tokens": 4, "stream": True}
    reply = httpx.post(f"{runtime.url}/infer", json={"TextGeneration": request}, timeout=60)
    assert reply.status_code == status


def test_streams_that_are_cut_anywhere_leave_nothing_behind(runtime: Running) -> None:
    """No row, and no thread in any process of the runtime. CUT_STREAMS=1000: so many, for some minutes."""

    async def cut(client: AsyncModelRuntimeClient, number: int) -> None:
        chance = random.Random(number)
        text = client.generate_stream("text", PROMPTS[number % 3], CONTEXT, temperature=1, seed=number)
        async with asyncio.timeout(60), text:
            left = chance.randrange(CONTEXT)
            async for _ in text:
                left -= 1
                if left <= 0:
                    return

    async def abandon(client: AsyncModelRuntimeClient, number: int) -> None:
        task = asyncio.create_task(cut(client, number))
        if number % 3 == 0:
            # Anywhere, also before it is sent or while it waits for its turn.
            await asyncio.sleep(random.Random(number).random() / 10)
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def cut_many(streams: int) -> None:
        for target in (runtime.url, runtime.handle):
            async with AsyncModelRuntimeClient(target) as client:
                for first in range(0, streams // 2, TOGETHER):
                    await asyncio.gather(*(abandon(client, first + number) for number in range(TOGETHER)))

    def now(name: str) -> float:
        return metric(httpx.get(f"{runtime.url}/metrics", timeout=30).text, f'{name}{{model="text"}}')

    asyncio.run(cut_many(2 * TOGETHER))
    before = threads_of_replicas()
    asyncio.run(cut_many(int(os.environ.get("CUT_STREAMS", "120"))))
    wait_until(lambda: now("text_requests_running") == now("text_requests_waiting") == 0)
    more = {pid: threads - before.get(pid, threads) for pid, threads in threads_of_replicas().items()}
    assert before
    assert max(more.values()) <= POOLED
    # All slots are there for whoever comes next.
    chunks, result = STREAMS["client"](runtime, "text", PROMPTS[0])
    assert "".join(chunk.text for chunk in chunks) == result.generated_text
