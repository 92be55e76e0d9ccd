"""`model-runtime infer`: each family's command asks what its arguments say, and prints the answer."""

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
from PIL import Image

from deployments.contract.chunk import Chunk
from deployments.contract.types import (
    ImageClassification,
    ImageClassificationResult,
    InferRequest,
    InferResponse,
    ObjectDetection,
    ObjectDetectionResult,
    TextEmbedding,
    TextEmbeddingResult,
    TextGeneration,
    TextGenerationResult,
)
from serve_app.cli import connection
from serve_app.cli.main import main
from tests.support.running import Running
from tests.support.text_models import Reference

BOXES = [(10.0, 5.0, 50.0, 40.0), (0.0, 0.0, 64.0, 48.0)]


class Client:
    """Stands for the runtime's client: notes the request and gives a set answer."""

    def __init__(self) -> None:
        self.asked: list[InferRequest] = []

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *failure: object) -> None: ...

    def infer(self, request: InferRequest) -> InferResponse:
        self.asked.append(request)
        if isinstance(request, ImageClassification):
            return ImageClassificationResult(class_labels=["cat", "horse"], probabilities=[0.75, 0.25])
        if isinstance(request, ObjectDetection):
            return ObjectDetectionResult(class_labels=["cat", "horse"], scores=[0.75, 0.5], boxes=BOXES)
        if isinstance(request, TextEmbedding):
            return TextEmbeddingResult(embeddings=[[0.5, -0.25]])
        return TextGenerationResult(generated_text=" I am")

    def stream(self, request: InferRequest) -> AbstractContextManager[Iterator[Chunk]]:
        self.asked.append(request)
        return nullcontext(iter([Chunk(" I", 1), Chunk(" am", 2)]))


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    client = Client()
    monkeypatch.setattr(connection, "connect", lambda options: client)
    return client


def test_an_image_is_read_from_its_file(client: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.png").write_bytes(b"picture")
    assert main(["infer", "image", "m", str(tmp_path / "a.png")]) == 0
    assert client.asked == [ImageClassification(model_id="m", image_data=b"picture", top_k=5)]
    assert capsys.readouterr().out == "cat    0.7500\nhorse  0.2500\n"


def test_objects_are_printed_and_drawn_into_a_copy_of_the_picture(
    client: Client, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = tmp_path / "drawn.png"
    command = ["infer", "detect", "m", str(picture), "--threshold", "0", "--top-k", "2", "--output", str(drawn)]
    assert main(command) == 0
    assert client.asked == [ObjectDetection(model_id="m", image_data=picture.read_bytes(), threshold=0, top_k=2)]
    assert capsys.readouterr().out == "cat    0.7500  10.0 5.0 50.0 40.0\nhorse  0.5000  0.0 0.0 64.0 48.0\n"
    with Image.open(picture) as before, Image.open(drawn) as after:
        assert after.size == before.size
        assert after.getpixel((30, 40)) != before.convert("RGB").getpixel((30, 40))


def test_a_file_that_cannot_be_written_is_one_line(
    client: Client, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("nowhere/drawn.png", "drawn.text"):
        assert main(["infer", "detect", "m", str(picture), "--output", str(tmp_path / name)]) == 1
        assert capsys.readouterr().err.count("\n") == 1


def test_a_text_is_embedded_and_its_vector_is_printed_as_json(
    client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["infer", "embed", "m", "a text", "--input-type", "query", "--dimensions", "2"]) == 0
    assert client.asked == [TextEmbedding(model_id="m", texts=["a text"], input_type="query", dimensions=2)]
    assert json.loads(capsys.readouterr().out) == [0.5, -0.25]


def test_a_text_is_asked_for_with_the_options_that_are_given(
    client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["infer", "text", "m", "ROMEO:", "--max-tokens", "2", "--seed", "7"]) == 0
    assert client.asked == [TextGeneration(model_id="m", prompt="ROMEO:", max_tokens=2, seed=7)]
    assert capsys.readouterr().out == " I am\n"


def test_a_stream_is_printed_as_one_text(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["infer", "text", "m", "ROMEO:", "--stream"]) == 0
    assert client.asked == [TextGeneration(model_id="m", prompt="ROMEO:", max_tokens=64, stream=True)]
    assert capsys.readouterr().out == " I am\n"


def test_a_wrong_option_is_refused_before_anything_is_sent(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["infer", "text", "m", "p", "--temperature=-1"]) == 1
    assert "TextGeneration.temperature: Input should be greater than or equal to 0" in capsys.readouterr().err
    assert main(["infer", "image", "m", "no-such-file.jpg"]) == 1
    assert "no-such-file.jpg" in capsys.readouterr().err
    assert client.asked == []


def test_infer_image_prints_labels_and_probabilities(runtime: Running, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["infer", "image", "image", str(runtime.picture), "--top-k", "2", "--url", runtime.url]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all(0 <= float(line.split()[-1]) <= 1 for line in lines)


def test_infer_text_prints_the_continuation(runtime: Running, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["infer", "text", "text", "Once", "--max-tokens", "8", "--url", runtime.url]) == 0
    assert Reference(runtime.models / "text").agrees("Once", 8, capsys.readouterr().out.removesuffix("\n"))


def test_infer_text_streams_the_same_continuation(runtime: Running, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["infer", "text", "text", "Once", "--max-tokens", "8", "--url", runtime.url]
    assert main(command) == main([*command, "--stream"]) == 0
    whole, streamed = capsys.readouterr().out.splitlines()
    assert whole == streamed
    assert main(["infer", "text", "nope", "p", "--stream", "--url", runtime.url]) == 1
    assert "model_not_found" in capsys.readouterr().err


def test_infer_json_sends_any_variant_as_it_stands(runtime: Running, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["infer", "json", '{"Echo":{"model_id":"any","text":"hi"}}', "--url", runtime.url]) == 0
    assert json.loads(capsys.readouterr().out) == {"EchoResult": {"text": "hi"}}
    assert main(["infer", "json", "{", "--url", runtime.url]) == 1
    assert json.loads(capsys.readouterr().out)["Error"]["code"] == "invalid_request"
