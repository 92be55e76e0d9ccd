"""What lies behind a picture in its file, such as the video of a motion photo, changes nothing."""

import random

import numpy as np
import pytest

from deployments.contract.errors import InvalidImage
from tests.support.image_files import FILES, photo, pixels


def behind(kind: str) -> bytes:
    """What lies behind a picture: a video of a phone, with the sequence of a scan's beginning here and there."""
    begin = b"\0\0\0\x18ftypmp42" if kind == "video" else b"SEFT" if kind == "Samsung's" else FILES[kind](photo(32, 32))
    return begin + (random.Random(0).randbytes(997) + b"\xff\xda\xff\xd8") * 200


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("more", ["video", "Samsung's", "JPEG"])
def test_what_lies_behind_a_picture_changes_nothing(kind: str, more: str) -> None:
    whole = FILES[kind](photo())
    assert np.array_equal(pixels(whole + behind(more)), pixels(whole))


def test_hundreds_of_scans_before_a_video_are_refused() -> None:
    whole = FILES["progressive JPEG"](photo())
    last = whole[whole.rindex(b"\xff\xda") : -2]
    with pytest.raises(InvalidImage, match="scans"):
        pixels(whole[:-2] + last * 200 + whole[-2:] + behind("video"))


def test_a_jpeg_of_countless_segments_is_refused_at_once() -> None:
    whole = FILES["JPEG"](photo())
    with pytest.raises(InvalidImage, match="segments"):
        pixels(whole[:2] + b"\xff\xfe\x00\x04\xff\xda" * 100_000 + whole[2:])
