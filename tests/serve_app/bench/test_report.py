"""What spans come to."""

import json
from pathlib import Path

import pytest

from serve_app.bench.loops import Span
from serve_app.bench.report import Report, plot, quantiles, summary

TEXT = Span(0.0, 1.0, 1, first_at=0.5, tokens=6, name="gpt")
SPANS = [TEXT, Span(1.0, 3.0, 1, name="cats"), Span(2.0, 2.5, 0, error="overloaded", name="cats"), Span(9, 11, 1)]


def report() -> Report:
    whole = summary(SPANS, 0.0, 10.0, {"latency": 1.5})
    models = {name: summary([one for one in SPANS if one.name == name], 0, 10, {}) for name in ("cats", "gpt")}
    return Report(
        "model-runtime bench", "2 cores", "2026-01-01", "http://x", 10.0, {"latency": 1.5}, whole, models, SPANS
    )


def test_rates_errors_and_goodput_are_of_what_ended_within_the_time() -> None:
    whole = report().whole
    assert (whole.requests, whole.errors) == (3, {"overloaded": 1})
    assert whole.requests_per_s == pytest.approx(0.25)  # two, and half of one
    assert whole.tokens_per_s == pytest.approx(0.6)
    assert [whole.good_share, whole.goodput_per_s] == pytest.approx([1 / 3, 0.1])


def test_times_of_texts_are_to_the_first_token_and_for_each_one_after() -> None:
    seconds = summary([TEXT], 0.0, 10.0, {}).seconds
    assert {name: values["p50"] for name, values in seconds.items()} == {"latency": 1.0, "ttft": 0.5, "tpot": 0.1}
    assert summary([TEXT], 0.0, 10.0, {"ttft": 0.4}).good_share == 0
    assert summary([TEXT], 0.0, 10.0, {"tpot": 0.1}).good_share == 1


def test_quantiles_are_by_nearest_rank() -> None:
    assert quantiles([float(n) for n in range(1, 101)]) == {"p50": 50, "p90": 90, "p99": 99, "max": 100}
    assert quantiles([]) == {}


def test_the_report_names_machine_objective_models_and_errors() -> None:
    lines = report().as_lines()
    for part in ("2 cores", "latency ≤ 1.5 s", "cats: ", "gpt: ", "1 × overloaded", "ttft", "p99"):
        assert part in lines


def test_the_saved_report_holds_every_request() -> None:
    saved = json.loads(report().as_json())
    assert dict(zip(saved["span_fields"], saved["spans"][0], strict=True))["first_at"] == 0.5
    assert saved["whole"]["errors"] == {"overloaded": 1}


@pytest.mark.slow
def test_a_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    assert plot(report(), tmp_path / "report.png")
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
