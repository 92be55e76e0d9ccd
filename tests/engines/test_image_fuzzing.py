"""Mutated files of each format: a picture or InvalidImage, and quickly. `fuzz` takes as many mutations as one likes."""

import random
import time

import pytest

from deployments.engines.image_decoding import DecodeLimits, decoded
from deployments.errors import InvalidImage
from tests.engines.image_files import FILES, encoded, photo
from tests.engines.test_image_decoding import run_length_bmp


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


FUZZED = {
    **FILES,
    "RGBA WebP": lambda image: encoded(image.convert("RGBA"), "WEBP"),
    "run-length BMP": lambda _: run_length_bmp(4, 2, b"\x04\x05\x00\x00\x04\x06\x00\x01"),
}


def fuzz(kind: str, mutations: int, seed: int = 0) -> tuple[int, float]:
    """How many of the mutations were pictures still, and the seconds of the slowest."""
    whole = FUZZED[kind](photo(40, 30))
    chance = random.Random(f"{kind} {seed}")
    survived, slowest = 0, 0.0
    for _ in range(mutations):
        image_data = mutated(whole, chance)
        start = time.thread_time()
        try:
            with decoded(image_data, limits=DecodeLimits(pixels=12_000_000)) as picture:
                survived += picture.mode == "RGB"
        except InvalidImage:
            pass
        slowest = max(slowest, time.thread_time() - start)
    return survived, slowest


@pytest.mark.filterwarnings("ignore")  # Pillow warns of the damage that it reads around
@pytest.mark.parametrize("kind", FUZZED)
def test_a_mutated_file_is_a_picture_or_an_invalid_image_within_a_second(kind: str) -> None:
    survived, slowest = fuzz(kind, 200)
    assert 0 < survived < 200
    assert slowest < 1
