"""The ImageClassification replica without Ray: the operator's limits, many pictures at a time, a bad one among them."""

import itertools
import os
import subprocess
import sys
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
from tests.support.image_models import LABELS, encoded, expected, photo, quick_measuring, saved
from tests.support.project import PROJECT

__all__ = ["quick_measuring"]  # a fixture of every test here


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
    model = to.options.repository().find("m", "image_classification")
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
async def test_of_64_pictures_at_once_each_gets_its_own_answer_and_bad_ones_fail_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int
) -> None:
    saved(tmp_path / "m", "vit")
    images = [photo(seed=seed) for seed in range(8)]
    files = [encoded(images[n % 8]) for n in range(64)]
    files[13], files[40] = b"no picture", files[40][:-60]
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


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core has no workers")
def test_what_a_forwards_workers_use_is_its_models() -> None:
    check = """
import time
from concurrent.futures import ThreadPoolExecutor
import numpy as np, openvino
from deployments.system.cpu import CpuMeter
from deployments.engines.vision.openvino_runner import _options, start_workers
meter, thread = CpuMeter(), ThreadPoolExecutor(1)
thread.submit(meter.lead_team).result()
thread.submit(start_workers, 2).result()
rows = openvino.opset13.parameter([1024, 1024], np.float32)
model = openvino.Model([openvino.opset13.matmul(rows, rows, False, True)], [rows])
request = openvino.Core().compile_model(model, "CPU", _options(2, 1)).create_infer_request()
def work():
    until = time.thread_time() + 1
    while time.thread_time() < until:
        request.infer([np.zeros((1024, 1024), np.float32)])
thread.submit(meter.measured("m", work)).result()
print(meter.sample()["m"])
"""
    run = subprocess.run([sys.executable, "-c", check], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert float(run.stdout) > 1.5  # a second of the thread's own, and about as much of its worker


@pytest.mark.skipif(len(os.sched_getaffinity(0)) != 2, reason="made for two side by side")
def test_each_of_two_models_is_told_what_its_own_forwards_used_beside_the_others(tmp_path: Path) -> None:
    """One is asked three times as often; nothing is counted twice, nor left out but the event loop's."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.support.light_forwards", str(tmp_path / "models")],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    ratio, share = map(float, run.stdout.split())
    assert 2 < ratio < 4  # Cores that share one of the machine make the same work take longer at times.
    assert 0.97 < share < 1.01
