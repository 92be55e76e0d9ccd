"""Images over HTTP to the replica's code, in one process and without Ray: batches, and files of every kind."""

import base64
import random
import uuid
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest
from PIL import Image
from starlette.testclient import TestClient

from deployments.contract.types import InferRequest
from deployments.families.image_classification.replica import ImageClassificationReplica
from deployments.replica.calls import Call, Reply
from deployments.repository.model import find
from tests.deployments.engines.vision.test_fuzzing import mutated
from tests.deployments.families.image_classification.test_replica import replica
from tests.support.http_runtimes import FakeRuntime, Script, http_app
from tests.support.image_files import FILES, photo
from tests.support.image_models import on_one_thread, saved

__all__ = ["on_one_thread"]  # a fixture of every test here


def answered_by_a_replica(models: Path) -> Script:
    replicas: list[ImageClassificationReplica] = []

    async def script(request: InferRequest) -> AsyncGenerator[Reply, None]:
        if not replicas:  # It needs the running loop.
            replicas.append(replica(models))
        model = find(replicas[0].options.repository().models(), request.model_id, "image_classification")
        call_id = uuid.uuid4().hex
        yield await replicas[0].infer(Call(request, call_id, 60, model, call_id=call_id))

    return script


@pytest.fixture
def http(tmp_path: Path) -> Iterator[TestClient]:
    saved(tmp_path / "image", "vit")
    with TestClient(http_app(FakeRuntime(answered_by_a_replica(tmp_path))), raise_server_exceptions=False) as client:
        yield client


def classified(http: TestClient, files: list[bytes]) -> list[dict[str, dict[str, object]]]:
    requests = [
        {"ImageClassification": {"model_id": "image", "image_data": base64.b64encode(file).decode()}} for file in files
    ]
    reply = http.post("/infer/batch", json=requests)
    assert reply.status_code == 200
    answers: list[dict[str, dict[str, object]]] = reply.json()
    return answers


def test_64_pictures_in_one_request_are_answered_in_order_and_bad_ones_fail_alone(http: TestClient) -> None:
    good = [FILES["PNG"](photo().rotate(45 * turn)) for turn in range(8)]
    alone = [classified(http, [file])[0]["ImageClassificationResult"] for file in good]
    assert len({str(answer) for answer in alone}) == 8
    files = good * 8
    files[5], files[60] = b"no picture", b""
    for n, answer in enumerate(classified(http, files)):
        if n in (5, 60):
            assert answer["Error"]["code"] == "invalid_image"
        else:
            assert answer["ImageClassificationResult"]["class_labels"] == alone[n % 8]["class_labels"]
            assert answer["ImageClassificationResult"]["probabilities"] == pytest.approx(
                alone[n % 8]["probabilities"], abs=1e-5
            )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Pillow warns of the damage that it reads around
def test_no_file_is_answered_with_a_failure_of_ours(http: TestClient) -> None:
    """Never a 5xx: an answer, or what is wrong with the file."""
    chance = random.Random(0)
    files = [mutated(make(photo(40, 30)), chance) for make in FILES.values() for _ in range(20)]
    codes = {str(answer.get("Error", {}).get("code")) for answer in classified(http, files)}
    assert codes == {"None", "invalid_image"}
    bomb = FILES["PNG"](Image.new("1", (6500, 6500)))
    reply = http.post("/infer", data={"model_id": "image"}, files={"image": bomb})
    assert reply.status_code == 422
    assert reply.json()["Error"]["message"] == "the image has more than 40 million pixels"
