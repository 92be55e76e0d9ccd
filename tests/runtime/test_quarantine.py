"""An input that ends replicas is found among its neighbours and refused; nothing else is."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import httpx
import psutil
import pytest

from deployments.contract.types import Error, InferResponse
from tests.runtime.test_operation import metric
from tests.support.echo import Echo, EchoResult
from tests.support.running import Running, replica_pids
from tests.support.until import wait_until

PATIENCE_S = 250.0


def ask(runtime: Running, text: str) -> InferResponse:
    """Until the family's deadline."""
    answer: InferResponse = runtime.handle.infer.remote(Echo(model_id="any", text=text)).result(timeout_s=PATIENCE_S)
    return answer


@pytest.fixture
def callers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as callers:
        yield callers


def asked(callers: ThreadPoolExecutor, runtime: Running, *texts: str) -> list["Future[InferResponse]"]:
    return [callers.submit(ask, runtime, text) for text in texts]


def answers(asked: list["Future[InferResponse]"]) -> list[InferResponse]:
    return [one.result(PATIENCE_S) for one in asked]


def refused(runtime: Running) -> list[dict[str, object]]:
    listed: list[dict[str, object]] = httpx.get(f"{runtime.url}/quarantine", timeout=30).json()["inputs"]
    return listed


def echo_replica(runtime: Running) -> int:
    """The process of the only one that lives: Serve may still list one that has ended."""
    ask(runtime, "there is a replica")

    def living() -> list[int]:
        return [pid for pid in replica_pids("model-runtime", "Echo") if psutil.pid_exists(pid)]

    return wait_until(living, "there is a replica")[0]


def test_an_input_that_crashes_replicas_is_refused_and_its_neighbours_are_answered(
    runtime: Running, callers: ThreadPoolExecutor
) -> None:
    texts = [f"slow {number}" for number in range(6)]
    neighbours = asked(callers, runtime, *texts)
    answer = ask(runtime, "crash")
    assert answers(neighbours) == [EchoResult(text=text) for text in texts]
    assert isinstance(answer, Error)
    assert answer.code == "input_quarantined"
    (entry,) = refused(runtime)
    assert (entry["model"], entry["family"], entry["deaths"]) == ("echo", "echo", 2)
    assert str(entry["digest"]) in answer.message

    process = echo_replica(runtime)
    again = ask(runtime, "crash")
    assert isinstance(again, Error)
    assert again.code == "input_quarantined"
    assert ask(runtime, "crash not") == EchoResult(text="crash not")
    assert echo_replica(runtime) == process
    text = httpx.get(f"{runtime.url}/metrics", timeout=30).text
    assert metric(text, 'inference_quarantined_total{family="echo"') == 1
    assert metric(text, 'inference_requests_total{family="echo",model="unknown",outcome="input_quarantined"}') == 2

    assert httpx.delete(f"{runtime.url}/quarantine/{entry['digest']}", timeout=30).json() == entry
    assert refused(runtime) == []
    assert httpx.delete(f"{runtime.url}/quarantine/{entry['digest']}", timeout=30).status_code == 404


def test_a_replica_that_is_killed_from_outside_costs_no_answer_and_quarantines_nothing(
    runtime: Running, callers: ThreadPoolExecutor
) -> None:
    for texts in (["slow"] * 6, ["slow"]):
        victim = echo_replica(runtime)
        under_way = asked(callers, runtime, *texts)
        os.kill(victim, signal.SIGKILL)
        assert answers(under_way) == [EchoResult(text="slow")] * len(texts)
    assert refused(runtime) == []
