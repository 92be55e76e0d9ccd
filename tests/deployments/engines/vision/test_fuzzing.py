"""Mutated files of each format: pixel values or InvalidImage, quickly, and nothing is kept.

`make fuzz-image` takes 20,000 mutations of each format, `make test` a few.
"""

import gc
import random
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from PIL import Image

from deployments.contract.errors import InvalidImage
from deployments.engines.vision import decoding
from deployments.engines.vision.engine import ImageClassificationEngine
from tests.deployments.engines.vision.test_decoding import run_length_bmp
from tests.support import sweep
from tests.support.image_files import FILES, encoded, photo
from tests.support.image_models import loaded, on_one_thread, saved

__all__ = ["on_one_thread"]


def mutated(whole: bytes, chance: random.Random) -> bytes:
    """Some bytes changed, a stretch repeated, left out or swapped for noise, or the end cut off."""
    file = bytearray(whole)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        at = (
            min(int(chance.expovariate(4 / len(file))), len(file) - 1)
            if chance.random() < 0.6
            else chance.randrange(len(file))
        )
        length = chance.choice((1, 1, 2, 4, 32))
        kind = chance.randrange(5)
        if kind == 0:
            file[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            file[at : at + length] = chance.randbytes(length)
        elif kind == 2:
            file[at : at + length] = chance.choice((b"\x00", b"\xff", b"\x7f")) * length
        elif kind == 3 and len(file) > 64:
            del file[at : at + length]
        else:
            file[at:at] = file[at : at + length]
    return bytes(file[: chance.randrange(len(file))] if chance.random() < 0.05 else file)


FUZZED: dict[str, Callable[[Image.Image], bytes]] = {
    **FILES,
    "large JPEG": lambda _: encoded(photo(320, 240), "JPEG"),  # decoded small
    "JPEG TIFF": lambda image: encoded(image, "TIFF", compression="jpeg"),
    "RGBA WebP": lambda image: encoded(image.convert("RGBA"), "WEBP"),
    "run-length BMP": lambda _: run_length_bmp(4, 2, b"\x04\x05\x00\x00\x04\x06\x00\x01"),
}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[Image.Image]]:
    """Every image from now on."""
    images: list[weakref.ref[Image.Image]] = []
    make = Image.Image.__init__

    def noted(image: Image.Image) -> None:
        make(image)
        images.append(weakref.ref(image))

    monkeypatch.setattr(Image.Image, "__init__", noted)
    return images


def are_alive(images: list[weakref.ref[Image.Image]]) -> bool:
    return any(image() is not None for image in images)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImageClassificationEngine]:
    engine = loaded(saved(tmp_path_factory.mktemp("model"), "mobilenet"))
    yield engine
    engine.close()


@pytest.fixture(autouse=True)
def twelve_megapixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding.LIMITS, "pixels", 12_000_000)


@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore")  # Pillow warns of the damage that it reads around
@pytest.mark.parametrize("kind", sweep(FUZZED, "JPEG", "PNG", "WebP", "RGBA WebP"))
def test_a_mutated_file_is_an_image_or_an_invalid_image_within_a_second(
    engine: ImageClassificationEngine,
    kind: str,
    request: pytest.FixtureRequest,
    made: list[weakref.ref[Image.Image]],
) -> None:
    whole = FUZZED[kind](photo(40, 30))
    mutations = request.config.getoption("--image-mutations")
    chance = random.Random(kind)
    survived, slowest = 0, 0.0
    for _ in range(mutations):
        image_data = mutated(whole, chance)
        start = time.thread_time()
        with suppress(InvalidImage):
            survived += engine.preprocess(image_data).shape == (3, 32, 32)
        slowest = max(slowest, time.thread_time() - start)
    assert 0 < survived < mutations
    assert slowest < 1
    assert decoding.LIMITS.reserved == 0
    assert made
    if are_alive(made):
        gc.collect()
    assert not are_alive(made)
