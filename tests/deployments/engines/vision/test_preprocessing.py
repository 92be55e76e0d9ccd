"""What a load finds out of a preprocessor by trying is found out once for a content."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

from deployments.contract.errors import InvalidImage
from deployments.engines.vision import engine as image_classification
from deployments.engines.vision import preprocessing
from deployments.system.artifact_cache import ArtifactCache
from deployments.validation.verdicts import FolderFacts
from tests.support import sweep
from tests.support.image_models import answer, encoded, expected, loaded, on_one_thread, photo, pixels, saved, vit

__all__ = ["on_one_thread"]  # a fixture of every test here


@pytest.mark.parametrize("kind", sweep(["vit", "resnet", "mobilenet"], "vit"))
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


def unresized(folder: Path, kind: str, **processor: object) -> Path:
    saved(folder, kind)
    file = folder / "preprocessor_config.json"
    file.write_text(
        json.dumps(json.loads(file.read_text()) | {"do_resize": False, "do_center_crop": False} | processor)
    )
    return folder


def test_a_model_of_one_size_takes_images_of_that_size_and_names_it_to_others(tmp_path: Path) -> None:
    folder, facts = unresized(tmp_path / "m", "vit"), FolderFacts(ArtifactCache(tmp_path / "facts", 1 << 20), "m")
    for _ in ("first", "again"):
        engine = loaded(folder, facts=facts)
        assert "32×32 only" in engine.runtime_info[0]
        image = photo(32, 32)
        np.testing.assert_allclose(answer(engine, encoded(image)), expected(folder, image), atol=1e-4)
        for size in ((400, 300), (31, 32), (32, 64)):
            with pytest.raises(InvalidImage, match=f"takes images of 32×32 pixels.* this one has {size[0]}×{size[1]}"):
                engine.preprocess(encoded(photo(*size)))
        engine.close()


def test_the_size_of_an_image_counts_when_it_is_upright(tmp_path: Path) -> None:
    folder, config = unresized(tmp_path, "vit"), vit()
    config.image_size = [32, 48]
    AutoModelForImageClassification.from_config(config).save_pretrained(folder)
    engine, exif = loaded(folder), Image.Exif()
    exif[0x0112] = 6
    assert answer(engine, encoded(photo(32, 48), exif=exif)).shape == (5,)
    with pytest.raises(InvalidImage, match="48×32 pixels"):
        engine.preprocess(encoded(photo(32, 48)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["resnet", "mobilenet"])
def test_a_model_of_any_size_takes_images_as_they_are(tmp_path: Path, kind: str) -> None:
    engine = loaded(unresized(tmp_path, kind))
    for size in ((32, 32), (90, 61), (200, 150)):
        image = photo(*size)
        np.testing.assert_allclose(answer(engine, encoded(image)), expected(tmp_path, image), atol=1e-4)
    with pytest.raises(InvalidImage, match="does not resize images"):
        engine.preprocess(encoded(photo(3000, 2000)))


def test_an_image_that_a_model_of_many_sizes_cannot_take_is_the_images_fault(tmp_path: Path) -> None:
    engine = loaded(unresized(tmp_path, "resnet"))
    assert engine._forward is not None
    engine._forward.form = replace(engine._forward.form, logits=refuse)
    (got,) = engine.classify([encoded(photo(32, 32))])
    assert isinstance(got, InvalidImage)


def refuse(_: object) -> torch.Tensor:
    raise ValueError("not divisible by the patch")


@pytest.mark.parametrize("done", ["nothing", "do_rescale", "do_normalize", "do_rescale do_normalize"])
@pytest.mark.parametrize("kind", sweep(["vit", "resnet", "mobilenet"], "vit"))
def test_pixel_values_are_the_processors_whatever_it_does(tmp_path: Path, kind: str, done: str) -> None:
    steps = {step: step in done for step in ("do_rescale", "do_normalize")}
    folder = unresized(tmp_path, kind, do_resize=True, **steps)
    engine, processor = loaded(folder), AutoImageProcessor.from_pretrained(folder)
    for image in (photo(32, 32), photo(90, 61, 1)):
        theirs = processor(images=image, return_tensors="pt").pixel_values[0].float()
        most = float(theirs.abs().max())
        torch.testing.assert_close(pixels(engine, encoded(image)), theirs, rtol=0, atol=1e-6 * max(most, 1.0))
    assert answer(engine, encoded(photo(32, 32))).shape == (5,)
