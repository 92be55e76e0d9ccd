"""A converted detector finds the same, and takes the place of PyTorch's only then, where pictures have one size."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from deployments.engines import conversion
from deployments.engines.detection import engine as detection
from deployments.engines.detection.engine import Found, ObjectDetectionEngine
from deployments.system.artifact_cache import ArtifactCache
from tests.support.detection.models import expected, saved
from tests.support.image_models import encoded, on_one_thread, photo

__all__ = ["on_one_thread"]  # a fixture of every test here

PATIENCE_S = 240
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def cache(tmp_path: Path) -> ArtifactCache:
    return ArtifactCache(tmp_path / "cache", 1 << 30)


def settled(folder: Path, cache: ArtifactCache) -> ObjectDetectionEngine:
    engine = ObjectDetectionEngine.load(folder, cores=1, cache=cache)
    assert engine.settled.wait(PATIENCE_S)
    return engine


def in_this_process(convert: Callable[..., None], folder: Path, details: Sequence[object], place: Path) -> None:
    """A child is nice: on a busy machine its turn may come late."""
    convert(folder, *details, place)


@pytest.mark.compiles
def test_it_finds_what_transformers_finds_and_later_loads_find_it(
    tmp_path: Path, cache: ArtifactCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detection, "no_faster", lambda before, converted: None)
    monkeypatch.setattr(conversion, "convert_in_child", in_this_process)
    folder = saved(tmp_path / "m", "rt_detr")
    engine = settled(folder, cache)
    assert engine.runtime_info[1:] == ("forward: OpenVINO", "largest batch: 1, on 1 thread")
    pictures = [photo(*size, seed) for seed, size in enumerate(((120, 60), (320, 200), (60, 120)))]
    answers = engine.detect([engine.preprocess(encoded(picture), 0.1) for picture in pictures])
    for answer, picture in zip(answers, pictures, strict=True):
        assert isinstance(answer, Found)
        rows = expected(folder, picture, 0.1)
        assert answer.labels == [label for label, _, _ in rows]
        np.testing.assert_allclose(answer.scores, [score for _, score, _ in rows], atol=1e-4)
        np.testing.assert_allclose(answer.boxes, [box for _, _, box in rows], atol=0.1)
    assert engine.resident_bytes > 0
    monkeypatch.setattr(conversion, "convert_in_child", None)
    assert settled(folder, cache).runtime_info[1] == "forward: OpenVINO"


@pytest.mark.slow
def test_one_that_finds_something_else_is_not_used(
    tmp_path: Path, cache: ArtifactCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other:
        def __init__(self, file: Path, cores: int) -> None: ...

        def __call__(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
            return [torch.zeros(1, 30, 5), torch.full((1, 30, 4), 0.5)]

    monkeypatch.setattr(conversion, "convert_in_child", lambda *given: None)
    monkeypatch.setattr(detection, "OpenVinoModel", Other)
    engine = settled(saved(tmp_path / "m", "rt_detr"), cache)
    assert engine.runtime_info[1] == "forward: PyTorch, eager (converted it finds something else)"
    [answer] = engine.detect([engine.preprocess(encoded(photo(120, 60)), 0.1)])
    assert isinstance(answer, Found)


@pytest.mark.slow
def test_a_folder_that_makes_pictures_of_many_sizes_stays_with_torch(tmp_path: Path, cache: ArtifactCache) -> None:
    engine = settled(saved(tmp_path / "m", "deformable_detr"), cache)
    assert engine.runtime_info[1] == "forward: PyTorch, eager (it takes pictures of many sizes)"
