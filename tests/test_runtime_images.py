"""Pictures over HTTP: many in one request, and whatever else a file may hold."""

import base64
import random

import httpx
import pytest
from PIL import Image

from tests.conftest import Running
from tests.engines.image_files import FILES, photo
from tests.engines.test_image_fuzzing import mutated

pytestmark = pytest.mark.ray


def classified(runtime: Running, files: list[bytes]) -> list[dict[str, dict[str, object]]]:
    requests = [
        {"ImageClassification": {"model_id": "image", "image_data": base64.b64encode(file).decode()}} for file in files
    ]
    reply = httpx.post(f"{runtime.url}/infer/batch", json=requests, timeout=60)
    assert reply.status_code == 200
    answers: list[dict[str, dict[str, object]]] = reply.json()
    return answers


def test_64_pictures_in_one_request_are_answered_in_order_and_bad_ones_fail_alone(runtime: Running) -> None:
    good = [FILES["PNG"](photo().rotate(45 * turn)) for turn in range(8)]
    alone = [classified(runtime, [file])[0]["ImageClassificationResult"] for file in good]
    assert len({str(answer) for answer in alone}) == 8
    files = good * 8
    files[5], files[60] = b"no picture", b""
    for n, answer in enumerate(classified(runtime, files)):
        if n in (5, 60):
            assert answer["Error"]["code"] == "invalid_image"
        else:
            assert answer["ImageClassificationResult"]["class_labels"] == alone[n % 8]["class_labels"]
            assert answer["ImageClassificationResult"]["probabilities"] == pytest.approx(alone[n % 8]["probabilities"])


def test_no_file_is_answered_with_a_failure_of_ours(runtime: Running) -> None:
    """Never a 5xx: an answer, or what is wrong with the file."""
    chance = random.Random(0)
    files = [mutated(make(photo(40, 30)), chance) for make in FILES.values() for _ in range(12)]
    codes = {str(answer.get("Error", {}).get("code")) for answer in classified(runtime, files)}
    assert codes == {"None", "invalid_image"}
    bomb = FILES["PNG"](Image.new("1", (6500, 6500)))
    reply = httpx.post(f"{runtime.url}/infer", data={"model_id": "image"}, files={"image": bomb}, timeout=60)
    assert reply.status_code == 422
    assert reply.json()["Error"]["message"] == "the image has more than 40 million pixels"
