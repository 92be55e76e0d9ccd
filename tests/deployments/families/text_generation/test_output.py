"""Events of the engine's thread reach the event loop in their order, at the price of one wake-up for many."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from deployments.contract.errors import Internal
from deployments.contract.types import Chunk, TokenLogprob
from deployments.engines.text.request import Finished
from deployments.families.text_generation.output import GenerationOutput, LoopNotifier

END = Finished("stop", 1, 2)


class CountedLoop(asyncio.SelectorEventLoop):
    """Counts how often it is woken."""

    wakes = 0

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: object, **options: object) -> asyncio.Handle:
        self.wakes += 1
        return super().call_soon_threadsafe(callback, *args)


def in_a_thread(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def emit_all(outputs: list[GenerationOutput]) -> None:
    for output in outputs:
        output.emit(Chunk("a", 1))
        output.emit(END)


async def test_chunks_come_in_order_and_the_end_after_them() -> None:
    chunks: list[Chunk] = []
    output = GenerationOutput(LoopNotifier(asyncio.get_running_loop()), chunks.append)
    logprob = TokenLogprob(token="b", logprob=-1.0, utf8=[98], top=[])

    def generate() -> None:
        output.emit(Chunk("a", 1))
        output.emit(Chunk("b", 2, (logprob,)))
        output.emit(END)

    in_a_thread(generate)
    assert await output.finished == END
    assert [chunk.text for chunk in chunks] == ["a", "b"]
    assert output.text == "ab"
    assert output.logprobs == [logprob]


async def test_a_failure_is_raised_where_the_end_is_awaited() -> None:
    output = GenerationOutput(LoopNotifier(asyncio.get_running_loop()), None)
    output.emit(Internal("the model failed"))
    with pytest.raises(Internal, match="the model failed"):
        await output.finished


async def test_the_end_of_a_cancelled_request_is_dropped() -> None:
    output = GenerationOutput(LoopNotifier(asyncio.get_running_loop()), None)
    output.finished.cancel()
    output.emit(END)
    await asyncio.sleep(0)
    assert output.finished.cancelled()


def test_events_that_come_at_once_wake_the_loop_once() -> None:
    loop = CountedLoop()

    async def run() -> int:
        notifier = LoopNotifier(loop)
        outputs = [GenerationOutput(notifier, None) for _ in range(5)]
        before = loop.wakes
        in_a_thread(lambda: emit_all(outputs))
        woken = loop.wakes - before
        await asyncio.gather(*(output.finished for output in outputs))
        return woken

    try:
        assert loop.run_until_complete(run()) == 1
    finally:
        loop.close()
