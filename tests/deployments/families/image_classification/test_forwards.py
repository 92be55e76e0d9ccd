"""Which forwards have all cores, and which run beside others."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any, cast

import pytest

from deployments.engines.vision.engine import ImageClassificationEngine
from deployments.families.image_classification.forwards import Forwards
from deployments.replica.batching import Batcher


class Engine:
    """Answers when it is told to, with how it was asked: whether alone, and in which thread."""

    batch_size = 2

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once
        self.asked, self.go_on = threading.Semaphore(0), threading.Event()
        self.exclusive: list[bool] = []

    def classify(self, pictures: Sequence[bytes], exclusive: bool = False) -> list[Any]:
        self.exclusive.append(exclusive)
        self.asked.release()
        assert self.go_on.wait(10)
        return [(exclusive, threading.current_thread())] * len(pictures)


@pytest.fixture
def forwards() -> Iterator[Forwards]:
    with closing(Forwards(2)) as forwards:
        yield forwards


def batcher(forwards: Forwards, engine: Engine) -> "Batcher[Any, Any]":
    return Batcher(lambda: forwards.pace(cast(ImageClassificationEngine, engine), engine.classify, 8))


async def test_a_light_forward_has_all_cores_while_nothing_else_computes(forwards: Forwards) -> None:
    engine = Engine(at_once=2)
    engine.go_on.set()
    light = batcher(forwards, engine)
    (leader,) = {await light.submit(b"") for _ in range(3)}
    assert leader[0]
    assert await batcher(forwards, engine).submit(b"") == leader  # another model


async def test_beside_others_it_has_one_core(forwards: Forwards) -> None:
    heavy, light = Engine(at_once=1), Engine(at_once=2)
    light.go_on.set()
    computing = asyncio.create_task(batcher(forwards, heavy).submit(b""))
    await asyncio.to_thread(heavy.asked.acquire)
    exclusive, beside = await batcher(forwards, light).submit(b"")
    assert not exclusive
    heavy.go_on.set()
    assert await computing != (False, beside)


async def test_of_many_as_many_run_as_there_are_cores_and_one_more(forwards: Forwards) -> None:
    engine = Engine(at_once=2)
    light = batcher(forwards, engine)
    answers = asyncio.gather(*(light.submit(b"") for _ in range(12)))
    for _ in range(3):
        assert await asyncio.to_thread(engine.asked.acquire, timeout=10)
    assert not engine.asked.acquire(blocking=False)
    assert sorted(engine.exclusive) == [False, False, True]
    engine.go_on.set()
    await answers
