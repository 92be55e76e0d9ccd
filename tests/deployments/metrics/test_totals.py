"""Models' metrics add up over replicas and reloads, and Prometheus' own parser reads them."""

import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from deployments.metrics.samples import ModelMetric, ModelReport
from deployments.metrics.totals import ModelTotals
from tests.support.clock import Clock


@pytest.fixture
def totals(clock: Clock) -> ModelTotals:
    return ModelTotals(clock)


def report(source: str, tokens: float, running: float, waits: tuple[float, ...], model: str = "m") -> ModelReport:
    return ModelReport(
        source,
        model,
        (
            ModelMetric("tokens_total", "counter", "Tokens.", (tokens,)),
            ModelMetric("running", "gauge", "Running.", (running,)),
            ModelMetric("wait_seconds", "histogram", "Waits.", waits, bounds=(0.1, 1.0)),
        ),
    )


def samples(totals: ModelTotals) -> dict[tuple[str, str], float]:
    """By name, with a bucket's bound, and model, as Prometheus reads them."""
    families = text_string_to_metric_families(generate_latest(totals).decode())
    return {
        (sample.name + sample.labels.get("le", ""), sample.labels["model"]): sample.value
        for family in families
        for sample in family.samples
    }


def test_sources_of_one_model_add_up_and_outlive_themselves(totals: ModelTotals, clock: Clock) -> None:
    totals.add([report("a", 5, 2, (1, 2, 3, 9.5)), report("b", 7, 1, (1, 0, 0, 0.05))])
    assert samples(totals) == {
        ("tokens_total", "m"): 12,
        ("running", "m"): 3,
        ("wait_seconds_bucket0.1", "m"): 2,
        ("wait_seconds_bucket1", "m"): 4,
        ("wait_seconds_bucket+Inf", "m"): 7,
        ("wait_seconds_sum", "m"): 9.55,
        ("wait_seconds_count", "m"): 7,
    }
    clock.now += 3600
    totals.add([report("c", 1, 4, (0, 0, 0, 0))])
    assert samples(totals)["tokens_total", "m"] == 13
    assert samples(totals)["running", "m"] == 4


def test_a_report_that_comes_twice_or_late_or_never_counts_once(totals: ModelTotals) -> None:
    for tokens in (5, 5, 12345678, 5, 12345678):  # the second 5 comes late, by another ingress
        totals.add([report("a", tokens, 0, (0, 0, 0, 0))])
    assert samples(totals)["tokens_total", "m"] == 12345678


def test_a_gauge_of_a_source_that_ended_is_zero(totals: ModelTotals, clock: Clock) -> None:
    totals.add([report("a", 5, 2, (0, 0, 0, 0))])
    clock.now += 60
    assert samples(totals)["running", "m"] == 0


def test_odd_model_names_stay_labels(totals: ModelTotals) -> None:
    odd = 'a"b\\c\nd/é'
    totals.add([report("a", 5, 2, (0, 0, 0, 0), odd), report("b", 6, 2, (0, 0, 0, 0), "z")])
    assert samples(totals)["tokens_total", odd] == 5
    assert samples(totals)["tokens_total", "z"] == 6


def test_a_metric_has_its_name_and_type_as_before(totals: ModelTotals) -> None:
    totals.add([report("a", 5, 2, (1, 2, 3, 9.5))])
    assert generate_latest(totals).decode().splitlines() == [
        "# HELP running Running.",
        "# TYPE running gauge",
        'running{model="m"} 2.0',
        "# HELP tokens_total Tokens.",
        "# TYPE tokens_total counter",
        'tokens_total{model="m"} 5.0',
        "# HELP wait_seconds Waits.",
        "# TYPE wait_seconds histogram",
        'wait_seconds_bucket{le="0.1",model="m"} 1.0',
        'wait_seconds_bucket{le="1",model="m"} 3.0',
        'wait_seconds_bucket{le="+Inf",model="m"} 6.0',
        'wait_seconds_count{model="m"} 6.0',
        'wait_seconds_sum{model="m"} 9.5',
    ]


def test_series_of_models_that_are_gone_go_with_them(totals: ModelTotals) -> None:
    of_a_key = ModelReport("k", "", (ModelMetric("used_total", "counter", "Used.", (5,)),), (("key", "team"),))
    totals.add([report("a", 5, 2, (0, 0, 0, 0), "kept"), report("b", 6, 2, (0, 0, 0, 0), "gone"), of_a_key])
    totals.forget_all_but({"", "kept"})
    text = generate_latest(totals).decode()
    assert 'model="kept"' in text
    assert 'key="team"' in text
    assert "gone" not in text


def test_a_gauge_of_no_model_goes_with_its_source(totals: ModelTotals, clock: Clock) -> None:
    memory = ModelMetric("memory_bytes", "gauge", "Memory.", (5,))
    totals.add([ModelReport("r", "", (memory,), (("replica", "r"),))])
    assert 'memory_bytes{replica="r"} 5.0' in generate_latest(totals).decode()
    clock.now += 60
    assert "memory_bytes" not in generate_latest(totals).decode()


def test_counters_and_gauges_are_told_as_they_grow(clock: Clock) -> None:
    told: list[tuple[str, float]] = []
    totals = ModelTotals(clock, lambda metric, labels, value: told.append((metric.name, value)))
    for tokens in (5, 9):
        totals.add([report("a", tokens, 2, (0, 0, 0, 0))])
    totals.show_gauges()
    assert told == [("tokens_total", 5), ("tokens_total", 4), ("running", 2)]
