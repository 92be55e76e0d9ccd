"""The ObjectDetection replica without Ray: limits, options, many pictures at a time, a bad one among them."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.contract.types import Error, InferRequest, InferResponse, ObjectDetection, ObjectDetectionResult
from deployments.engines.detection import engine
from deployments.engines.vision import decoding
from deployments.families.object_detection.family import OBJECT_DETECTION, ObjectDetectionOptions
from deployments.families.object_detection.replica import ObjectDetectionReplica
from deployments.replica.calls import Call
from deployments.replica.family import model_formats
from deployments.replica.model_replica import ReplicaOptions
from deployments.replica.replica import Replica
from deployments.repository.model import find
from tests.support.detection.models import expected, saved
from tests.support.image_models import encoded, on_one_thread, photo

__all__ = ["on_one_thread"]  # a fixture of every test here


@pytest.fixture(autouse=True)
def nothing_is_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    """As tests/deployments/engines/detection/test_openvino_convert.py shows it."""
    monkeypatch.setattr(engine, "convert_in_background", lambda *given: None)


@pytest.fixture(autouse=True)
def own_limits() -> Iterator[None]:
    """They are the process's."""
    limits = decoding.LIMITS
    before = limits.pixels, limits.budget_mb
    yield
    limits.pixels, limits.budget_mb = before


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    saved(root / "m", "yolos")
    return root


def replica(models: Path, **settings: object) -> ObjectDetectionReplica:
    options = ObjectDetectionOptions.model_validate(settings)
    return ObjectDetectionReplica(ReplicaOptions(OBJECT_DETECTION, models, model_formats([OBJECT_DETECTION]), options))


async def answers(to: ObjectDetectionReplica, requests: list[ObjectDetection]) -> list[InferResponse]:
    model = find(to.options.repository().models(), "m", "object_detection")
    calls = [Call(request, f"request-{n}", 60, model, call_id=str(n)) for n, request in enumerate(requests)]
    replies = {n: reply async for said in Replica.exchange(to, calls) for n, reply in said}
    return [replies[n] for n in range(len(requests))]  # type: ignore[misc]


def asking(image_data: bytes, threshold: float | None = 0.0, top_k: int | None = None) -> ObjectDetection:
    return ObjectDetection(model_id="m", image_data=image_data, threshold=threshold, top_k=top_k)


async def test_an_operators_limits_hold(models: Path) -> None:
    [large, small] = await answers(
        replica(models, max_megapixels=0.01), [asking(encoded(photo(101, 100))), asking(encoded(photo(100, 100)))]
    )
    assert isinstance(large, Error)
    assert (large.code, large.message) == ("invalid_image", "the image has more than 0.01 million pixels")
    assert isinstance(small, ObjectDetectionResult)
    assert small.model_id == "m"


async def test_threshold_and_top_k_are_the_callers_and_the_threshold_is_a_half_by_default(models: Path) -> None:
    file = encoded(photo(300, 200, 2))  # with scores on both sides of a half
    options: list[tuple[float | None, int | None]] = [(0, None), (None, None), (0.5, None), (0, 3), (0, 0), (1, None)]
    asked = [asking(file, threshold, top_k) for threshold, top_k in options]
    every, default, half, three, also_every, none = [
        answer
        for answer in await answers(replica(models, max_batch_size=1), asked)
        if isinstance(answer, ObjectDetectionResult)
    ]
    assert len(every.class_labels) == 10
    assert every == also_every
    assert default == half
    assert 0 < len(default.class_labels) < 10
    assert all(score > 0.5 for score in default.scores)
    assert (three.class_labels, three.boxes) == (every.class_labels[:3], every.boxes[:3])
    assert three.scores == every.scores[:3]
    assert (none.class_labels, none.scores, none.boxes) == ([], [], [])


async def test_of_many_pictures_at_once_each_gets_its_own_answer_and_a_bad_one_fails_alone(models: Path) -> None:
    images = [photo(*size, seed) for seed, size in enumerate(((120, 60), (60, 120), (90, 90), (640, 100)))]
    requests: list[InferRequest] = [asking(encoded(images[n % 4])) for n in range(24)]
    requests[13] = asking(b"no image")
    got = await answers(replica(models), requests)  # type: ignore[arg-type]
    assert [n for n, answer in enumerate(got) if isinstance(answer, Error)] == [13]
    known = [expected(models / "m", image, 0.0) for image in images]
    for n, answer in enumerate(got):
        if isinstance(answer, ObjectDetectionResult):
            assert answer.class_labels == [label for label, _, _ in known[n % 4]]
            assert answer.scores == pytest.approx([score for _, score, _ in known[n % 4]], abs=1e-5)
            for box, (_, _, theirs) in zip(answer.boxes, known[n % 4], strict=True):
                assert box == pytest.approx(theirs, abs=1e-2)


async def test_what_forwards_and_decodes_use_is_their_models(models: Path) -> None:
    asked = replica(models)
    await answers(asked, [asking(encoded(photo(400, 300)))] * 4)
    assert asked.cpu.sample()["m"] > 0


@pytest.mark.parametrize(("label", "code"), [("{best}", None), ("a label of none", "model_load_failed")])
async def test_a_model_must_find_its_golden_object_before_it_answers(
    tmp_path: Path, label: str, code: str | None
) -> None:
    picture = photo(120, 60)
    saved(tmp_path / "m", "yolos")
    best, score, box = expected(tmp_path / "m", picture)[0]
    (tmp_path / "m" / "golden.png").write_bytes(encoded(picture))
    example = {"image": "golden.png", "label": label.format(best=best), "box": box, "score": score}
    (tmp_path / "m" / "model.yaml").write_text(json.dumps({"golden": [example]}))
    [answer] = await answers(replica(tmp_path), [asking(encoded(photo()))])
    if code is None:
        assert isinstance(answer, ObjectDetectionResult)
    else:
        assert isinstance(answer, Error)
        assert answer.code == code
        assert "golden" in answer.message
