"""The board adds up what all recorders saw, also of those that are gone."""

from collections.abc import Iterator

import pytest

from deployments.metrics import requests
from deployments.metrics.requests import Labels, MetricsAggregator, Recorder

OK = Labels("m", "text_generation", "ok")
BAD = Labels("unknown", "unknown", "invalid_request")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ray's metrics are seen in test_runtime.py, at Ray's own endpoint."""

    class Silent:
        def __init__(self, *args: object, **options: object) -> None: ...
        def inc(self, *args: object) -> None: ...
        def set(self, *args: object) -> None: ...
        def observe(self, *args: object) -> None: ...

    for name in ("Counter", "Gauge", "Histogram"):
        monkeypatch.setattr(requests, name, Silent)
    return None


def line(board: MetricsAggregator, name: str) -> list[str]:
    return [line for line in board.render().splitlines() if line.startswith(name)]


def test_counts_of_all_recorders_add_up_and_survive_them(clock: Clock) -> None:
    board = MetricsAggregator(clock)
    for name in ("first", "second"):
        recorder = Recorder(name, clock)
        recorder.record(OK, 10)
        recorder.record(BAD, 1)
        board.report(recorder.report({}, []))
    clock.now += 10_000
    successor = Recorder("third", clock)
    successor.record(OK, 10)
    board.report(successor.report({}, []))
    assert line(board, "inference_requests_total") == [
        'inference_requests_total{model="m",family="text_generation",outcome="ok"} 3',
        'inference_requests_total{model="unknown",family="unknown",outcome="invalid_request"} 2',
    ]


def test_a_report_sent_twice_or_lost_counts_each_request_once(clock: Clock) -> None:
    board, recorder = MetricsAggregator(clock), Recorder("one", clock)
    recorder.record(OK, 10)
    for _ in range(2):
        board.report(recorder.report({}, []))
    recorder.record(OK, 10)
    recorder.report({}, [])  # lost
    recorder.record(OK, 10)
    board.report(recorder.report({}, []))
    assert line(board, "inference_requests_total")[0].endswith(" 3")


def test_latency_is_sum_over_count_of_the_last_60_seconds(clock: Clock) -> None:
    board, busy, calm = MetricsAggregator(clock), Recorder("busy", clock), Recorder("calm", clock)
    busy.record(OK, 1000)
    clock.now += 61
    for latency_ms in (10, 20, 30):
        busy.record(OK, latency_ms)
    calm.record(OK, 100)
    for recorder in (busy, calm):
        board.report(recorder.report({}, []))
    assert line(board, "inference_latency_avg_ms") == ["inference_latency_avg_ms 40.000"]
    clock.now += 61
    assert line(board, "inference_latency_avg_ms") == ["inference_latency_avg_ms 0.000"]


def test_gpu_utilisation_is_the_mean_over_distinct_gpus_and_absent_without_one(clock: Clock) -> None:
    board = MetricsAggregator(clock)
    board.report(Recorder("cpu", clock).report({}, []))
    assert line(board, "gpu_utilization_percent") == []
    board.report(Recorder("a", clock).report({"GPU-1": 40, "GPU-2": 80}, []))
    board.report(Recorder("b", clock).report({"GPU-1": 40}, []))
    assert line(board, "gpu_utilization_percent") == ["gpu_utilization_percent 60.0"]


def test_a_label_can_not_break_out_of_its_quotes(clock: Clock) -> None:
    board, recorder = MetricsAggregator(clock), Recorder("one", clock)
    recorder.record(Labels('a"\n\\', "f", "ok"), 1)
    board.report(recorder.report({}, []))
    assert line(board, "inference_requests_total") == [
        'inference_requests_total{model="a\\"\\n\\\\",family="f",outcome="ok"} 1'
    ]
