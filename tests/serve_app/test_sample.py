"""What `model-runtime serve` prints first: for each family a command that can be repeated, and its answer."""

from pathlib import Path
from typing import cast

import pytest

from deployments.contract.errors import ModelLoadFailed
from deployments.contract.status import ModelStatus
from deployments.contract.types import (
    ImageClassification,
    ImageClassificationResult,
    InferRequest,
    InferResponse,
    TextGenerationResult,
)
from deployments.families.table import FAMILIES
from serve_app.client.client import ModelRuntimeClient
from serve_app.sample import sample_lines
from tests.support import PROJECT
from tests.support.echo import ECHO

URL = "http://127.0.0.1:8000"


class Client:
    """Has two text models and the image models that are given; text models answer in two lines."""

    def __init__(self, *image_models: str, fails: bool = False) -> None:
        self.image_models = image_models
        self.fails = fails
        self.asked: list[InferRequest] = []

    def models(self) -> list[ModelStatus]:
        families = {"text": "text_generation", "text2": "text_generation", "broken": None}
        families |= dict.fromkeys(self.image_models, "image_classification")
        return [ModelStatus.model_construct(model_id=name, family=family) for name, family in families.items()]

    def infer(self, request: InferRequest) -> InferResponse:
        self.asked.append(request)
        if self.fails:
            raise ModelLoadFailed("text: broken")
        if isinstance(request, ImageClassification):
            return ImageClassificationResult(class_labels=["airplane", "bird"], probabilities=[0.9, 0.1])
        return TextGenerationResult(generated_text=" I am\nhere\n")


def lines(client: Client) -> list[str]:
    return sample_lines(cast(ModelRuntimeClient, client), (*FAMILIES, ECHO), URL)


def test_the_first_model_of_each_family_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    client = Client("an image's")
    file = "deployments/families/image_classification/airplane.jpg"
    assert lines(client) == [
        f"curl -F model_id='an image'\"'\"'s' -F image=@{file} {URL}/infer\n  airplane 0.900, bird 0.100",
        f"curl {URL}/infer -H 'content-type: application/json' "
        '-d \'{"TextGeneration":{"model_id":"text","prompt":"ROMEO:","max_tokens":40}}\'\n  ROMEO: I am\n  here',
    ]
    assert [request.model_id for request in client.asked] == ["an image's", "text"]


def test_outside_of_the_project_the_file_is_named_by_its_whole_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"image=@{PROJECT}/deployments/" in lines(Client("image"))[0]


def test_a_family_without_a_model_is_left_out_and_a_failure_is_shown() -> None:
    (line,) = lines(Client(fails=True))
    assert line.endswith("\n  model_load_failed: text: broken")
