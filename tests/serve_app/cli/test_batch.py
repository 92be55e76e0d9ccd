"""`model-runtime batch`: each line is answered exactly once, also by a run that was killed and goes on."""

import fcntl
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.contract.types import Error, ImageClassification, InferRequest, InferResponse, TextGenerationResult
from serve_app.cli import batch
from serve_app.cli.main import main
from serve_app.client import bulk
from tests.support import PROJECT
from tests.support.http_server import STALLED, Answering, answering
from tests.support.ports import free_port
from tests.support.until import wait_until


@pytest.fixture
def server() -> Iterator[Answering]:
    with answering() as server:
        yield server


def text(prompt: str) -> str:
    return json.dumps({"TextGeneration": {"model_id": "m", "prompt": prompt, "max_tokens": 1}})


def picture_line(size: int) -> str:
    return json.dumps({"ImageClassification": {"model_id": "m", "image_data": "A" * size}})


def said(request: InferRequest) -> InferResponse:
    return TextGenerationResult(generated_text=getattr(request, "prompt", type(request).__name__))


def run(server: Answering, folder: Path, *options: str) -> int:
    return main(["batch", str(folder / "in"), str(folder / "out"), "--url", server.url, *options])


def texts(folder: Path) -> list[str | None]:
    """Of each answer; None for an error."""
    answers = [json.loads(line) for line in (folder / "out").read_text().splitlines()]
    return [answer.get("TextGenerationResult", {}).get("generated_text") for answer in answers]


def test_families_are_mixed_and_a_line_that_is_no_request_has_its_own_error(
    server: Answering, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.script = said
    image = json.dumps({"ImageClassification": {"model_id": "m", "image_data": "AAAA"}})
    (tmp_path / "in").write_text("\n".join([text("a"), image, "", "no json", text("b")]))
    assert run(server, tmp_path) == 0
    assert texts(tmp_path) == ["a", ImageClassification.__name__, None, "b"]
    assert json.loads((tmp_path / "out").read_text().splitlines()[2])["Error"]["code"] == "invalid_request"
    assert "4 answered, 1 of them with an error" in capsys.readouterr().err


def test_a_run_that_is_killed_goes_on_and_answers_each_line_exactly_once(server: Answering, tmp_path: Path) -> None:
    asked: list[str] = []

    def keep(request: InferRequest) -> InferResponse:
        asked.append(getattr(request, "prompt", ""))
        return said(request)

    server.script = keep
    prompts = [*map(str, range(40)), STALLED, *map(str, range(41, 100))]
    (tmp_path / "in").write_text("\n".join(map(text, prompts)) + "\n")
    command = [sys.executable, "-m", "serve_app.cli.main", "batch", str(tmp_path / "in"), str(tmp_path / "out")]
    killed = subprocess.Popen([*command, "--url", server.url, "--concurrency", "4"], cwd=PROJECT)
    try:
        wait_until(lambda: server.arrived.is_set() and len(texts(tmp_path)) == 40, "40 are answered", 60)
    finally:
        killed.kill()
        killed.wait()
    with (tmp_path / "out").open("a") as out:
        out.write('{"TextGenerationRes')  # as a machine that stops leaves it
    server.stalls = False
    asked.clear()
    assert run(server, tmp_path) == 0
    assert texts(tmp_path) == prompts
    # The server notices the end of the killed run's request late.
    assert sorted(prompt for prompt in asked if prompt != STALLED) == sorted(prompts[41:])
    asked.clear()
    assert run(server, tmp_path) == 0
    assert not asked


def test_lines_share_requests_and_one_that_is_refused_for_the_moment_is_asked_again_alone(
    server: Answering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "FIRST_PAUSE_S", 0)
    refusals = [Error(message="no", code="model_not_found"), Error(message="later", code="overloaded", retryable=True)]

    def answer(request: InferRequest) -> InferResponse:
        return refusals.pop() if getattr(request, "prompt", "") == "5" else said(request)

    server.script = answer
    (tmp_path / "in").write_text("\n".join([*(text(str(n)) for n in range(10)), "no request", picture_line(2**18)]))
    assert run(server, tmp_path) == 0
    expected = [*map(str, range(10)), None, ImageClassification.__name__]
    assert texts(tmp_path) == [None if answer == "5" else answer for answer in expected]
    assert sorted(server.groups) == [10]


def test_a_group_that_is_not_answered_as_a_whole_is_asked_line_by_line(server: Answering, tmp_path: Path) -> None:
    server.script, server.lines_answered = said, 1
    (tmp_path / "in").write_text("\n".join(text(str(n)) for n in range(6)))
    assert run(server, tmp_path) == 0
    assert texts(tmp_path) == [str(n) for n in range(6)]


def test_the_output_of_another_file_and_one_that_is_being_written_are_refused(
    server: Answering, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").write_text(text("a"))
    (tmp_path / "out").write_text("{}\n{}\n")
    assert run(server, tmp_path) == 1
    assert "it answers another file" in capsys.readouterr().err
    with (tmp_path / "out").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert run(server, tmp_path) == 1
    assert "another run writes it" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "{}\n{}\n"


def test_a_runtime_that_is_lost_ends_the_run_and_no_line_is_answered_by_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bulk, "FIRST_PAUSE_S", 0)
    (tmp_path / "in").write_text(text("a"))
    url = f"http://127.0.0.1:{free_port()}"
    assert main(["batch", str(tmp_path / "in"), str(tmp_path / "out"), "--url", url]) == 1
    assert capsys.readouterr().err.count("unavailable") == 1
    assert (tmp_path / "out").read_text() == ""


def test_without_a_url_a_runtime_is_started_or_joined_here(
    server: Answering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.script = said
    started: list[Path | None] = []

    def local(config: Path | None) -> str:
        started.append(config)
        return server.url

    monkeypatch.setattr(batch, "_local", local)
    (tmp_path / "in").write_text(text("a"))
    for _ in range(2):  # the second has nothing to do
        assert main(["batch", str(tmp_path / "in"), str(tmp_path / "out")]) == 0
    assert started == [None]
    assert texts(tmp_path) == ["a"]
