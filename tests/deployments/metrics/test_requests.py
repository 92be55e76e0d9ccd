"""A recorder's report is cumulative; its latencies are those of the last minute."""

from deployments.metrics.requests import WINDOW_S, Labels, Recorder
from tests.support.clock import Clock

OK = Labels("m", "text_generation", "ok")


def test_a_report_holds_all_requests_so_far(clock: Clock) -> None:
    recorder = Recorder("one", clock)
    recorder.record(OK, 10)
    assert recorder.report({}, []).requests == {OK: 1}
    recorder.record(OK, 30)
    report = recorder.report({"GPU-1": 40.0}, [])
    assert (report.recorder, report.at, report.requests, report.gpus) == ("one", clock.now, {OK: 2}, {"GPU-1": 40.0})


def test_requests_of_one_second_are_one_entry_and_old_seconds_are_dropped(clock: Clock) -> None:
    recorder = Recorder("one", clock)
    for _ in range(2):
        recorder.record(OK, 10)
    (second,) = recorder.report({}, []).seconds
    assert (second.at, second.requests, second.latency_ms) == (1000, 2, 20)
    for _ in range(WINDOW_S + 10):
        clock.now += 1
        recorder.record(OK, 10)
    assert len(recorder.report({}, []).seconds) == WINDOW_S + 1
