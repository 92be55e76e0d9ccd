"""The table of metrics follows Prometheus' conventions, docs/metrics.md has it, and a meter counts by it."""

import re

import pytest

from deployments.families.text_generation import metrics as text
from deployments.metrics.meter import BATCH, INSTRUMENTS, KEY_TOKENS, LOAD, Instrument, Meter
from deployments.metrics.totals import ModelTotals
from tests.support import PROJECT
from tests.support.clock import Clock

ROW = re.compile(r"^\| (`[a-z_]+`(?:, `[a-z_]+`)*) \| (\w+) \| ([\w, ]*?) ?\| .+ \|$", re.MULTILINE)


def documented() -> dict[str, tuple[str, tuple[str, ...]]]:
    rows = ROW.findall((PROJECT / "docs" / "metrics.md").read_text("utf-8"))
    return {
        name: (kind, tuple(labels.split(", ")) if labels else ())
        for names, kind, labels in rows
        for name in re.findall(r"`([a-z_]+)`", names)
    }


@pytest.mark.parametrize("instrument", INSTRUMENTS, ids=lambda one: one.name)
def test_a_metric_is_documented_and_named_as_prometheus_asks(instrument: Instrument) -> None:
    assert documented()[instrument.name] == (instrument.kind, instrument.labels)
    assert instrument.name.endswith("_total") == (instrument.kind == "counter")
    assert instrument.kind == "counter" or instrument.name.endswith(("_seconds", "_bytes", "_size"))
    assert (instrument.kind == "histogram") == bool(instrument.bounds)
    assert list(instrument.bounds) == sorted(instrument.bounds)
    assert re.fullmatch(r"[A-Z].*\.", instrument.help)


def test_every_metric_that_is_documented_exists() -> None:
    mission = {"inference_requests_total", "inference_latency_avg_ms", "gpu_utilization_percent"}
    of_texts = {*text.GAUGES, *text.COUNTERS, *text.HISTOGRAMS}
    ours = {one.name for one in INSTRUMENTS}
    assert documented().keys() == mission | of_texts | ours | {"model_cpu_seconds_total"}


def test_a_meter_counts_by_labels_from_its_start(clock: Clock) -> None:
    meter, totals = Meter("one"), ModelTotals(clock)
    for size in (1.0, 3.0, 500.0):
        meter.observe(BATCH, size, "m", "images")
    meter.count(KEY_TOKENS, 5, "team")
    totals.add(meter.reports())
    meter.observe(LOAD, 2.0, "m", "images")
    meter.count(KEY_TOKENS, 7, "team")
    for _ in range(2):  # a report may come twice
        totals.add(meter.reports())
    shown = {
        (sample.name + sample.labels.get("le", ""), *sorted(sample.labels.values())): sample.value
        for family in totals.collect()
        for sample in family.samples
    }
    assert shown["api_key_tokens_total", "team"] == 12
    assert shown["inference_batch_size_bucket4", "4", "images", "m"] == 2
    assert shown["inference_batch_size_bucket+Inf", "+Inf", "images", "m"] == 3
    assert shown["inference_batch_size_sum", "images", "m"] == 504
    assert shown["model_load_duration_seconds_count", "images", "m"] == 1
