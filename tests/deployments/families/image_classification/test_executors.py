"""Which forwards have all cores, and which run beside others."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing

import numpy as np
import pytest

from deployments.contract.errors import ServingError
from deployments.engines.vision.inputs import Item
from deployments.families.image_classification.executors import ForwardExecutors
from deployments.replica.batching import Batcher

PATIENCE_S = 10.0
NO_FILE = b""


class Engine:
    """Computes until `go_on` is set. Answers with two numbers: whether it was exclusive, and its thread."""

    batch_size = 2

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once
        self.asked, self.go_on = threading.Semaphore(0), threading.Event()
        self.exclusive: list[bool] = []

    def classify(self, images: Sequence[Item | bytes], exclusive: bool = False) -> "list[np.ndarray | ServingError]":
        self.exclusive.append(exclusive)
        self.asked.release()
        assert self.go_on.wait(PATIENCE_S)
        return [np.array([exclusive, threading.get_ident()])] * len(images)


@pytest.fixture
def executors() -> Iterator[ForwardExecutors]:
    with closing(ForwardExecutors(2)) as executors:
        yield executors


def batcher(executors: ForwardExecutors, engine: Engine) -> Batcher[Item | bytes, np.ndarray]:
    return Batcher(lambda: executors.policy(engine.classify, engine.at_once, engine.batch_size))


async def test_a_light_forward_has_all_cores_while_nothing_else_computes(executors: ForwardExecutors) -> None:
    engine = Engine(at_once=2)
    engine.go_on.set()
    light = batcher(executors, engine)
    ((exclusive, thread),) = {tuple(await light.submit(NO_FILE)) for _ in range(3)}
    assert exclusive
    another_model = batcher(executors, engine)
    assert tuple(await another_model.submit(NO_FILE)) == (exclusive, thread)


async def test_a_light_forward_has_one_core_while_a_heavy_one_computes(executors: ForwardExecutors) -> None:
    heavy, light = Engine(at_once=1), Engine(at_once=2)
    light.go_on.set()
    computing = asyncio.create_task(batcher(executors, heavy).submit(NO_FILE))
    assert await asyncio.to_thread(heavy.asked.acquire, timeout=PATIENCE_S)
    exclusive, thread = await batcher(executors, light).submit(NO_FILE)
    assert not exclusive
    heavy.go_on.set()
    heavy_exclusive, heavy_thread = await computing
    assert not heavy_exclusive
    assert heavy_thread != thread


async def test_as_many_light_forwards_run_as_there_are_cores_and_one_more(executors: ForwardExecutors) -> None:
    engine = Engine(at_once=2)
    light = batcher(executors, engine)
    answers = asyncio.gather(*(light.submit(NO_FILE) for _ in range(12)))
    for _ in range(3):
        assert await asyncio.to_thread(engine.asked.acquire, timeout=PATIENCE_S)
    assert not engine.asked.acquire(blocking=False)
    assert sorted(engine.exclusive) == [False, False, True]
    engine.go_on.set()
    await answers
