"""What is measured adds up over replicas and reloads, and Prometheus' own parser reads it."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from deployments.metrics.samples import Measure, Measured, Measures


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def measures(clock: Clock) -> Measures:
    return Measures(clock)


def measured(source: str, tokens: float, running: float, waits: tuple[float, ...], model: str = "m") -> Measured:
    return Measured(
        source,
        model,
        (
            Measure("tokens_total", "counter", "Tokens.", (tokens,)),
            Measure("running", "gauge", "Running.", (running,)),
            Measure("wait_seconds", "histogram", "Waits.", waits, bounds=(0.1, 1.0)),
        ),
    )


def samples(measures: Measures) -> dict[tuple[str, str], float]:
    """By name, with a bucket's bound, and model, as Prometheus reads them."""
    families = text_string_to_metric_families("\n".join(measures.render()) + "\n")
    return {
        (sample.name + sample.labels.get("le", ""), sample.labels["model"]): sample.value
        for family in families
        for sample in family.samples
    }


def test_sources_of_one_model_add_up_and_outlive_themselves(measures: Measures, clock: Clock) -> None:
    measures.add([measured("a", 5, 2, (1, 2, 3, 9.5)), measured("b", 7, 1, (1, 0, 0, 0.05))])
    assert samples(measures) == {
        ("tokens_total", "m"): 12,
        ("running", "m"): 3,
        ("wait_seconds_bucket0.1", "m"): 2,
        ("wait_seconds_bucket1", "m"): 4,
        ("wait_seconds_bucket+Inf", "m"): 7,
        ("wait_seconds_sum", "m"): 9.55,
        ("wait_seconds_count", "m"): 7,
    }
    clock.now += 3600
    measures.add([measured("c", 1, 4, (0, 0, 0, 0))])
    assert samples(measures)["tokens_total", "m"] == 13
    assert samples(measures)["running", "m"] == 4


def test_a_report_heard_twice_late_or_never_counts_once(measures: Measures) -> None:
    for tokens in (5, 5, 12345678, 5, 12345678):  # the second 5 comes late, by way of another ingress
        measures.add([measured("a", tokens, 0, (0, 0, 0, 0))])
    assert samples(measures)["tokens_total", "m"] == 12345678


def test_a_gauge_of_a_source_that_is_gone_is_nothing(measures: Measures, clock: Clock) -> None:
    measures.add([measured("a", 5, 2, (0, 0, 0, 0))])
    clock.now += 60
    assert samples(measures)["running", "m"] == 0


def test_odd_model_names_stay_labels(measures: Measures) -> None:
    odd = 'a"b\\c\nd/é'
    measures.add([measured("a", 5, 2, (0, 0, 0, 0), odd), measured("b", 6, 2, (0, 0, 0, 0), "z")])
    assert samples(measures)["tokens_total", odd] == 5
    assert samples(measures)["tokens_total", "z"] == 6
