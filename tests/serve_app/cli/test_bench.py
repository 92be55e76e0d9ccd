"""`model-runtime bench`, in counted time against a scripted server, and on the command line against a real one."""

import argparse
import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.contract.types import ImageClassificationResult
from serve_app.bench.connections import Connections, Sent
from serve_app.bench.loops import Answer
from serve_app.bench.report import Report
from serve_app.cli.bench import add_arguments, load, report_of
from serve_app.cli.main import main
from serve_app.client.client import ModelRuntimeClient
from tests.serve_app.bench.virtual_time import run
from tests.support.http_runtimes import status
from tests.support.http_server import Answering, answering

MODELS = [status("gpt", "text_generation"), status("cats", "image_classification")]


class Fixed(Connections):
    """A server whose answers take a tenth of a second, and a quarter of that until the first token."""

    async def ask(self, sent: Sent) -> Answer:
        clock = asyncio.get_running_loop().time
        await asyncio.sleep(0.025)
        first_at = clock()
        await asyncio.sleep(0.075)
        return Answer(1, first_at, 16) if sent.name == "gpt" else Answer(1)


def report(*arguments: str) -> Report:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    options = parser.parse_args(["http://x", *arguments])
    begin, spans = run(load(Fixed("http://x"), options, MODELS))
    return report_of(spans, begin, options)


def test_a_closed_loop_reports_the_servers_figures_within_two_percent() -> None:
    told = report("--connections", "5", "--model", "gpt", "--seconds", "20", "--slo", "ttft=0.03,tpot=0.006").whole
    assert told.requests_per_s == pytest.approx(50, rel=0.02)
    assert told.tokens_per_s == pytest.approx(800, rel=0.02)
    figures = [told.seconds[name]["p99"] for name in ("latency", "ttft", "tpot")]
    assert figures == pytest.approx([0.1, 0.025, 0.005], rel=0.02)
    assert told.goodput_per_s == pytest.approx(50, rel=0.02)


def test_an_open_loop_reports_its_rate_and_the_mix_of_models() -> None:
    told = report("--rate", "200", "--model", "gpt=1", "--model", "cats=3", "--seconds", "60")
    assert told.whole.requests_per_s == pytest.approx(200, rel=0.05)
    assert told.whole.seconds["latency"]["max"] == pytest.approx(0.1, rel=0.02)
    shares = {name: one.requests / told.whole.requests for name, one in told.models.items()}
    assert shares == pytest.approx({"gpt": 0.25, "cats": 0.75}, abs=0.03)


def test_a_trace_is_replayed(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    rows = "".join(f"2023-11-16 18:17:{n // 10:02}.{n % 10},100,16\n" for n in range(600))
    file.write_text(f"TIMESTAMP,ContextTokens,GeneratedTokens\n{rows}")
    told = report("--trace", str(file), "--speed", "2", "--seconds", "20").whole
    assert told.requests_per_s == pytest.approx(20, rel=0.02)
    assert told.tokens_per_s == pytest.approx(320, rel=0.02)


def test_what_is_wrong_on_the_command_line_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (["--slo", "speed=1"], ["--rate", "0"], ["--rate", "5", "--connections", "3"]):
        with pytest.raises(SystemExit) as ended:
            main(["bench", "http://x", *wrong])
        assert ended.value.code == 2


@pytest.fixture
def server() -> Iterator[Answering]:
    with answering() as server:
        yield server


@pytest.mark.slow
def test_the_report_of_a_real_server_is_printed_and_saved(
    server: Answering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ModelRuntimeClient, "models", lambda self: MODELS)
    server.answer = ImageClassificationResult(class_labels=["cat"], probabilities=[1.0])
    saved = tmp_path / "report.json"
    pace = ["--model", "cats", "--seconds", "0.2", "--warm-up", "0", "--connections", "1", "--save", str(saved)]
    assert main(["bench", server.url, *pace]) == 0
    told = json.loads(saved.read_text())
    assert told["models"].keys() == {"cats"}
    assert {span[told["span_fields"].index("error")] for span in told["spans"]} == {""}
    assert "requests/s" in capsys.readouterr().out
