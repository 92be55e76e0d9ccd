"""What is sent and when, from models, files and traces."""

import itertools
import json
from collections import Counter
from pathlib import Path

import pytest

from deployments.families.table import FAMILIES
from serve_app.bench.workload import Row, of_file, of_models, of_trace, poisson, read_trace, text_model
from tests.support.http_runtimes import status

MODELS = [
    status("gpt", "text_generation", [1]),
    status("cats", "image_classification"),
    status("odd", "object_detection"),
]
TRACE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:05.0319600,3,8000

2023-11-16 18:17:04.4799600,20,2
"""


def test_models_are_asked_with_their_families_samples_by_weight() -> None:
    works = list(itertools.islice(of_models({"gpt": 3, "cats@2": 1}, MODELS, FAMILIES, 0), 400))
    counts = Counter(work.name for work in works)
    assert counts["gpt"] == pytest.approx(300, abs=40)
    bodies = {work.name: json.loads(work.body) for work in works}
    assert bodies["gpt"]["TextGeneration"]["stream"] is True
    assert bodies["cats@2"]["ImageClassification"]["image_data"]


def test_without_weights_every_model_with_a_sample_is_asked() -> None:
    works = itertools.islice(of_models({}, MODELS, FAMILIES, 0), 50)
    assert {work.name for work in works} == {"gpt", "cats"}


@pytest.mark.parametrize(("weights", "reason"), [({"no": 1}, "no such model"), ({"odd": 1}, "--requests")])
def test_a_model_that_cannot_be_asked_is_named(weights: dict[str, int], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        of_models(weights, MODELS, FAMILIES, 0)
    with pytest.raises(ValueError, match="--requests"):
        of_models({}, [], FAMILIES, 0)


def test_a_file_of_requests_is_sent_over_and_over_as_it_stands(tmp_path: Path) -> None:
    file = tmp_path / "requests.jsonl"
    line = '{"TextGeneration": {"model_id": "m", "prompt": "p", "max_tokens": 1}}'
    file.write_text(f"{line}\n\n{line}\n")
    assert [(work.name, work.body) for work in itertools.islice(of_file(file), 3)] == [("m", line.encode())] * 3
    file.write_text(f"{line}\n{{}}\n")
    with pytest.raises(ValueError, match="line 2"):
        of_file(file)
    file.write_text("")
    with pytest.raises(ValueError, match="no request"):
        of_file(file)


def test_a_trace_is_read_in_the_order_of_its_times(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    file.write_text(TRACE)
    rows = read_trace(file)
    assert [(row.context_tokens, row.generated_tokens) for row in rows] == [(4808, 10), (20, 2), (3, 8000)]
    assert [row.at for row in rows] == pytest.approx([0.0, 0.5, 1.052])
    for wrong in ("A,B\n1,2\n", "TIMESTAMP,ContextTokens,GeneratedTokens\nsoon,1,2\n"):
        file.write_text(wrong)
        with pytest.raises(ValueError, match="line 2"):
            read_trace(file)


def test_a_trace_keeps_its_pace_and_fits_the_models_context() -> None:
    rows = [Row(0.0, 4808, 10), Row(1.0, 20, 8000), Row(30.0, 1, 1)]
    arrivals = list(of_trace(rows, "gpt", 100, speed=2.0, seconds=10.0))
    assert [at for at, _ in arrivals] == [0.0, 0.5]
    requests = [json.loads(work.body)["TextGeneration"] for _, work in arrivals]
    assert [(len(one["prompt"].split()), one["max_tokens"]) for one in requests] == [(45, 10), (20, 50)]
    assert all(one["ignore_eos"] and one["stream"] for one in requests)


def test_callers_arrive_at_the_rate_and_the_same_again_with_the_same_seed() -> None:
    works = of_models({"gpt": 1}, MODELS, FAMILIES, 0)
    times = [at for at, _ in poisson(works, 50, 100, 1)]
    assert len(times) == pytest.approx(5000, rel=0.05)
    assert times == [at for at, _ in poisson(works, 50, 100, 1)]
    assert max(times) < 100


def test_a_trace_goes_to_the_named_text_model_or_to_the_first() -> None:
    assert text_model({}, MODELS).model_id == "gpt"
    with pytest.raises(ValueError, match="of that name"):
        text_model({"cats": 1}, MODELS)
