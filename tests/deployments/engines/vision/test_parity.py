"""Pictures of any size and format have the answers that transformers gives them.

With real photos, larger pictures and more models: `python -m benchmarks parity`.
"""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from transformers import pipeline

from tests.support.image_files import FILES, encoded
from tests.support.image_models import CONFIGS, answer, loaded, on_one_thread, photo, saved

__all__ = ["on_one_thread"]  # a fixture of every test here

SMALL, LARGE = [(33, 20), (200, 133)], [(768, 512), (1213, 1546)]
"""The large ones are many times as large as what the models take; the last is no multiple of 8, 4 or 2."""


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    made = {}
    for seed, size in enumerate([*SMALL, *LARGE]):
        detailed = Image.blend(photo(*size, seed), Image.effect_noise(size, 60).convert("RGB"), 0.2)
        for name in FILES if size in SMALL else ("JPEG", "progressive JPEG", "BMP"):
            made[f"{name} {size}"] = FILES[name](detailed)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("kind", CONFIGS)
def test_every_format_and_size_has_the_answer_of_transformers(
    tmp_path: Path, kind: str, files: dict[str, bytes]
) -> None:
    engine, by_library = loaded(saved(tmp_path, kind)), pipeline("image-classification", str(tmp_path))
    for name, file in files.items():
        rows = by_library(Image.open(io.BytesIO(file)), top_k=5)
        labels, probabilities = engine.best(answer(engine, file), 5)
        assert rows[0]["label"] == labels[0], name
        np.testing.assert_allclose(probabilities, [row["score"] for row in rows], atol=1e-4, err_msg=name)


def test_a_picture_that_lies_on_its_side_has_the_answer_of_the_upright_one(tmp_path: Path) -> None:
    engine, by_library = loaded(saved(tmp_path)), pipeline("image-classification", str(tmp_path))
    exif = Image.Exif()
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        file = encoded(photo(801, 600), "JPEG", quality=95, exif=exif)
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(file)))
        (row,) = by_library(upright, top_k=1)
        (label,), (probability,) = engine.best(answer(engine, file), 1)
        assert (row["label"], row["score"]) == (label, pytest.approx(probability, abs=1e-4))
