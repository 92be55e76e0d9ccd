"""Bulk work in actors of Ray Data. The actor alone needs neither Ray nor Ray Data; the others say what is missing."""

import base64
import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from serve_app import bulk
from serve_app.bulk import Engines, Span, spans_of
from serve_app.cli.main import main
from serve_app.config.config import RuntimeConfig
from tests.support.image_models import encoded, on_one_thread, photo, saved
from tests.support.running import Running

__all__ = ["on_one_thread"]  # a fixture of every test here

NO_RAY_DATA = find_spec("pyarrow") is None or find_spec("pandas") is None


def picture(model: str, size: int = 100) -> str:
    request = {"model_id": model, "image_data": base64.b64encode(encoded(photo(size, size))).decode()}
    return json.dumps({"ImageClassification": request})


def text(model: str, prompt: str) -> str:
    return json.dumps({"TextGeneration": {"model_id": model, "prompt": prompt, "max_tokens": 4}})


def said(lines: bytes) -> list[str]:
    """Of each answer its kind, and of an error its code."""
    answers = [json.loads(line) for line in lines.splitlines()]
    return [answer["Error"]["code"] if "Error" in answer else next(iter(answer)) for answer in answers]


def parts(file: Path, spans: list[Span]) -> list[list[str]]:
    content = file.read_bytes()
    return [content[begin:end].decode().split() for begin, end in spans]


def test_the_parts_of_a_file_hold_each_line_behind_those_that_are_done_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "TASK", 2)
    file = tmp_path / "in"
    file.write_text("a\n\nbb\n \nc\nd\ne")
    assert parts(file, spans_of(file, 0)) == [["a", "bb"], ["c", "d"], ["e"]]
    assert parts(file, spans_of(file, 1)) == [["bb", "c"], ["d", "e"]]
    assert parts(file, spans_of(file, 4)) == [["e"]]
    assert spans_of(file, 5) == []


@pytest.mark.slow
async def test_an_actor_answers_each_line_with_its_own_result_or_error_in_order(tmp_path: Path) -> None:
    saved(tmp_path / "models" / "m")
    file = tmp_path / "in"
    file.write_text("\n".join([picture("m"), "no request", picture("n"), "", text("m", "a"), picture("m", 50)]))
    engines = Engines(RuntimeConfig(models=tmp_path / "models", cache=tmp_path / "cache"), file)
    (answered,) = (await engines({"span": spans_of(file, 0)}))["answers"]
    result = "ImageClassificationResult"
    assert said(answered) == [result, "invalid_request", "model_not_found", "wrong_family", result]
    assert answered.splitlines()[0] != answered.splitlines()[4]
    (rest,) = (await engines({"span": spans_of(file, 4)}))["answers"]
    assert rest == answered.splitlines(keepends=True)[4]


@pytest.mark.skipif(not NO_RAY_DATA, reason="the extra `data` is installed")
def test_without_the_extra_one_line_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").write_text(text("m", "a"))
    assert main(["batch", str(tmp_path / "in"), str(tmp_path / "out"), "--actors", "1"]) == 1
    assert "pip install 'model-runtime[data]'" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == ""


@pytest.mark.skipif(NO_RAY_DATA, reason="needs the extra `data`: make test-data")
def test_ray_data_answers_mixed_lines_in_order_and_a_second_run_only_the_rest(
    runtime: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bulk, "TASK", 4)
    lines = [text("text", f"line {n}") if n % 2 else picture("image", 32 + n) for n in range(20)]
    lines[7] = "no request"
    (tmp_path / "in").write_text("\n".join(lines))
    (tmp_path / "config").write_text(json.dumps({"models": str(runtime.models)}))
    files, output = [str(tmp_path / "in"), str(tmp_path / "out")], tmp_path / "out"
    command = ["batch", *files, "--actors", "2", "--config", str(tmp_path / "config")]
    assert main(command) == 0
    kinds = ["TextGenerationResult" if n % 2 else "ImageClassificationResult" for n in range(20)]
    kinds[7] = "invalid_request"
    whole = output.read_bytes()
    assert said(whole) == kinds
    assert "20 answered, 1 of them with an error" in capsys.readouterr().err
    output.write_bytes(whole[: whole.rindex(b"\n", 0, len(whole) // 2) + 9])  # as a kill leaves it
    assert main(command) == 0
    assert output.read_bytes() == whole
    assert "going on behind line" in capsys.readouterr().err
