"""What a load finds out of a preprocessor by trying is found out once for a content."""

from pathlib import Path

import numpy as np
import pytest

from deployments.engines.vision import engine as image_classification
from deployments.engines.vision import preprocessing
from deployments.system.artifact_cache import ArtifactCache
from deployments.validation.verdicts import FolderFacts
from tests.support.image_models import answer, encoded, expected, loaded, photo, quick_measuring, saved

__all__ = ["quick_measuring"]  # a fixture of every test here


@pytest.mark.parametrize("kind", ["vit", "resnet", "mobilenet"])
def test_the_next_load_tries_nothing_and_says_the_same(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, facts = saved(tmp_path / "m", kind), FolderFacts(ArtifactCache(tmp_path / "facts", 1 << 20), "m")
    image = photo(100, 80)
    first = loaded(folder, facts=facts)

    def tried(*_: object) -> None:
        raise AssertionError("tried again")

    monkeypatch.setattr(preprocessing, "_same", tried)
    monkeypatch.setattr(image_classification, "_shapes", tried)
    second = loaded(folder, facts=facts)
    assert second.runtime_info[0] == first.runtime_info[0]
    for engine in (first, second):
        assert np.allclose(answer(engine, encoded(image)), expected(folder, image), atol=1e-4)
        engine.close()
