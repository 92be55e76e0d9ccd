"""The aggregator adds up what all recorders counted, also of those that have ended."""

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from deployments.families.text_generation import metrics as text
from deployments.metrics.aggregator import MetricsAggregator
from deployments.metrics.meter import INSTRUMENTS, report_of
from deployments.metrics.requests import Labels, Recorder
from deployments.metrics.samples import ModelMetric, ModelReport
from tests.support.clock import Clock

OK = Labels("m", "text_generation", "ok")
BAD = Labels("unknown", "unknown", "invalid_request")


def lines(aggregator: MetricsAggregator, name: str) -> list[str]:
    return [line for line in aggregator.render().splitlines() if line.startswith(name)]


def test_counts_of_all_recorders_add_up_and_survive_them(clock: Clock) -> None:
    aggregator = MetricsAggregator(clock)
    for name in ("first", "second"):
        recorder = Recorder(name, clock)
        recorder.record(OK, 10)
        recorder.record(BAD, 1)
        aggregator.report(recorder.report({}, []))
    clock.now += 10_000
    successor = Recorder("third", clock)
    successor.record(OK, 10)
    aggregator.report(successor.report({}, []))
    assert lines(aggregator, "inference_requests_total") == [
        'inference_requests_total{family="text_generation",model="m",outcome="ok"} 3.0',
        'inference_requests_total{family="unknown",model="unknown",outcome="invalid_request"} 2.0',
    ]


def test_a_report_sent_twice_or_lost_counts_each_request_once(clock: Clock) -> None:
    aggregator, recorder = MetricsAggregator(clock), Recorder("one", clock)
    recorder.record(OK, 10)
    for _ in range(2):
        aggregator.report(recorder.report({}, []))
    recorder.record(OK, 10)
    recorder.report({}, [])  # lost
    recorder.record(OK, 10)
    aggregator.report(recorder.report({}, []))
    assert lines(aggregator, "inference_requests_total")[0].endswith(" 3.0")


def test_latency_is_sum_over_count_of_the_last_60_seconds(clock: Clock) -> None:
    aggregator, busy, calm = MetricsAggregator(clock), Recorder("busy", clock), Recorder("calm", clock)
    busy.record(OK, 1000)
    clock.now += 61
    for latency_ms in (10, 20, 30):
        busy.record(OK, latency_ms)
    calm.record(OK, 100)
    for recorder in (busy, calm):
        aggregator.report(recorder.report({}, []))
    assert lines(aggregator, "inference_latency_avg_ms") == ["inference_latency_avg_ms 40.0"]
    clock.now += 61
    assert lines(aggregator, "inference_latency_avg_ms") == ["inference_latency_avg_ms 0.0"]


def test_gpu_utilisation_is_the_mean_over_distinct_gpus_and_absent_without_one(clock: Clock) -> None:
    aggregator = MetricsAggregator(clock)
    aggregator.report(Recorder("cpu", clock).report({}, []))
    assert lines(aggregator, "gpu_utilization_percent") == []
    aggregator.report(Recorder("a", clock).report({"GPU-1": 40, "GPU-2": 80}, []))
    aggregator.report(Recorder("b", clock).report({"GPU-1": 40}, []))
    assert lines(aggregator, "gpu_utilization_percent") == ["gpu_utilization_percent 60.0"]


def test_a_label_can_not_break_out_of_its_quotes(clock: Clock) -> None:
    aggregator, recorder = MetricsAggregator(clock), Recorder("one", clock)
    recorder.record(Labels('a"\n\\', "f", "ok"), 1)
    aggregator.report(recorder.report({}, []))
    assert lines(aggregator, "inference_requests_total") == [
        'inference_requests_total{family="f",model="a\\"\\n\\\\",outcome="ok"} 1.0'
    ]


def test_series_of_models_that_no_ingress_knows_are_dropped(clock: Clock) -> None:
    aggregator, first, second = MetricsAggregator(clock), Recorder("first", clock), Recorder("second", clock)
    for recorder in (first, second):
        recorder.record(OK, 10)
        recorder.record(BAD, 1)
        aggregator.report(recorder.report({}, [], frozenset({"m"})))
    assert 'model="m"' in aggregator.render()
    aggregator.report(first.report({}, [], frozenset()))
    assert 'model="m"' in aggregator.render(), "the other one still knows it"
    aggregator.report(second.report({}, [], frozenset()))
    assert 'model="m"' not in aggregator.render()
    assert 'model="unknown"' in aggregator.render()


def test_openmetrics_is_what_its_own_parser_reads(clock: Clock) -> None:
    aggregator, recorder = MetricsAggregator(clock), Recorder("one", clock)
    recorder.record(OK, 10)
    aggregator.report(recorder.report({}, []))
    parsed = text_string_to_metric_families(aggregator.render(openmetrics=True))  # type: ignore[no-untyped-call]
    families = {family.name: family for family in parsed}
    assert families["inference_requests"].type == "counter"
    assert families["inference_request_duration_seconds"].type == "histogram"


def test_everything_of_sixty_models_takes_less_than_a_megabyte(clock: Clock) -> None:
    aggregator, recorder = MetricsAggregator(clock), Recorder("one", clock)
    reports = []
    histogram = tuple(12345.678 for _ in range(12))
    for number in range(60):
        model, family = f"a-model-with-a-long-name-{number:02}", "text_generation"
        recorder.record(Labels(model, family, "ok"), 10)
        recorder.record(Labels(model, family, "overloaded"), 10)
        for one in INSTRUMENTS:
            if "model" in one.labels:
                values = (12345.678,) * (len(one.bounds) + 2 if one.bounds else 1)
                reports.append(report_of("r", one, (model, family), values))
        bounds = tuple(float(bound) for bound in range(10))
        metrics = [ModelMetric(name, "histogram", help_, histogram, bounds) for name, help_ in text.HISTOGRAMS.items()]
        metrics += [ModelMetric(name, "gauge", help_, (1.0,)) for name, help_ in text.GAUGES.items()]
        metrics += [ModelMetric(name, "counter", help_, (1.0,)) for name, help_ in text.COUNTERS.items()]
        reports.append(ModelReport(f"s{number}", model, tuple(metrics)))
    aggregator.report(recorder.report({}, reports))
    assert 300_000 < len(aggregator.render()) < 2**20
