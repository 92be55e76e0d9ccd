"""The ImageClassification replica without Ray: the operator's limits, many images at a time, a bad one among them."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from deployments.contract.types import Error, ImageClassification, ImageClassificationResult, InferResponse
from deployments.engines.vision import decoding
from deployments.families.image_classification.family import IMAGE_CLASSIFICATION, ImageClassificationOptions
from deployments.families.image_classification.replica import ImageClassificationReplica
from deployments.replica.calls import Call
from deployments.replica.family import model_formats
from deployments.replica.model_replica import ReplicaOptions
from deployments.replica.replica import Replica
from deployments.repository.model import find
from tests.support.image_models import LABELS, encoded, expected, on_one_thread, photo, saved

__all__ = ["on_one_thread"]  # a fixture of every test here


@pytest.fixture(autouse=True)
def own_limits() -> Iterator[None]:
    """They are the process's."""
    limits = decoding.LIMITS
    before = limits.pixels, limits.budget_mb
    yield
    limits.pixels, limits.budget_mb = before


def replica(models: Path, **settings: object) -> ImageClassificationReplica:
    options = ImageClassificationOptions.model_validate(settings)
    return ImageClassificationReplica(
        ReplicaOptions(IMAGE_CLASSIFICATION, models, model_formats([IMAGE_CLASSIFICATION]), options)
    )


async def answers(to: ImageClassificationReplica, files: list[bytes]) -> list[InferResponse]:
    model = find(to.options.repository().models(), "m", "image_classification")
    calls = [
        Call(ImageClassification(model_id="m", image_data=file, top_k=0), f"request-{n}", 60, model, call_id=str(n))
        for n, file in enumerate(files)
    ]
    replies = {n: reply async for said in Replica.exchange(to, calls) for n, reply in said}
    return [replies[n] for n in range(len(files))]  # type: ignore[misc]


async def test_an_operators_pixel_limit_holds(tmp_path: Path) -> None:
    saved(tmp_path / "m")
    [large, small] = await answers(
        replica(tmp_path, max_megapixels=0.01), [encoded(photo(101, 100)), encoded(photo(100, 100))]
    )
    assert isinstance(large, Error)
    assert (large.code, large.message) == ("invalid_image", "the image has more than 0.01 million pixels")
    assert isinstance(small, ImageClassificationResult)


async def test_an_operators_decode_budget_holds(tmp_path: Path) -> None:
    saved(tmp_path / "m")
    [large, small] = await answers(
        replica(tmp_path, decode_budget_mb=1), [encoded(photo(500, 500)), encoded(photo(100, 100))]
    )
    assert isinstance(large, Error)
    assert large.code == "invalid_image"
    assert "memory" in large.message
    assert isinstance(small, ImageClassificationResult)


@pytest.mark.parametrize("cores", [1, 2])
async def test_of_64_images_at_once_each_gets_its_own_answer_and_bad_ones_fail_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int
) -> None:
    saved(tmp_path / "m", "vit")
    images = [photo(seed=seed) for seed in range(8)]
    files = [encoded(images[n % 8]) for n in range(64)]
    files[13], files[40] = b"no image", files[40][:-60]
    crowd = replica(tmp_path)
    crowd.cores = cores
    got = await answers(crowd, files)
    assert [n for n, answer in enumerate(got) if isinstance(answer, Error)] == [13, 40]
    known = [expected(tmp_path / "m", image) for image in images]
    assert min(np.abs(one - other).max() for one, other in itertools.combinations(known, 2)) > 1e-4
    for n, answer in enumerate(got):
        if isinstance(answer, ImageClassificationResult):
            order = np.argsort(-known[n % 8], kind="stable")
            assert answer.class_labels == [LABELS[i] for i in order]
            np.testing.assert_allclose(answer.probabilities, known[n % 8][order], atol=1e-5)


async def test_what_forwards_and_decodes_use_is_their_models(tmp_path: Path) -> None:
    saved(tmp_path / "m")
    asked = replica(tmp_path)
    await answers(asked, [encoded(photo(400, 300))] * 4)
    assert asked.cpu.sample()["m"] > 0
