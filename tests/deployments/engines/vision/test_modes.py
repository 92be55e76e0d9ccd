"""docs/image-engine.md says which kinds of pictures are read as transformers reads them, and which are not."""

import io
import random
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms
from transformers.image_utils import load_image

from deployments.contract.errors import InvalidImage
from tests.deployments.engines.vision.test_decoding import MODES, png
from tests.support.image_files import FILES, encoded, photo, pixels, two_by_one

XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def animated(file_format: str, **options: object) -> bytes:
    mirrored = photo(20, 10).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return encoded(photo(20, 10), file_format, save_all=True, append_images=[mirrored], **options)


def turned(file_format: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(photo(20, 10), file_format, exif=exif)


def see_through(file_format: str, **options: object) -> bytes:
    return encoded(two_by_one("RGBA", (255, 0, 0, 255), (0, 0, 255, 0)), file_format, **options)


SAME = {
    **{mode: MODES[mode][0] for mode in ("1", "L", "P", "CMYK", "LAB", "F to 255")},
    "grey of two bits": png(4, 1, 2, 0, b"\x00\x1b"),
    "colour of sixteen bits": png(1, 1, 16, 2, b"\x00" + struct.pack(">HHH", 0xFFFF, 0x80FF, 0x0100)),
    "gamma": png(1, 1, 8, 2, b"\x00\x80\x40\x20", b"gAMA" + struct.pack(">I", 100_000)),
    "profile": encoded(photo(), "JPEG", icc_profile=PROFILE),
    "grey JPEG": encoded(photo(mode="L"), "JPEG"),
    "CMYK JPEG": encoded(photo(mode="CMYK"), "JPEG"),
    **{f"{name} of several": animated(name) for name in ("GIF", "WEBP", "PNG", "TIFF", "MPO")},
    "PNG with a default image": animated("PNG", default_image=True),
    **{f"{name} on its side": turned(name) for name in ("JPEG", "PNG", "WEBP", "TIFF")},
    "orientation in XMP": encoded(photo(20, 10), "JPEG", xmp=XMP),
    "BMP of 32 bits": see_through("BMP"),
}
OTHER = {
    mode: MODES[mode][0]
    for mode in (
        *("LA", "half-transparent LA", "RGBA", "PA", "RGBA WebP", "RGBA TIFF"),
        *("P with a transparent colour", "P with alpha bytes", "RGB with a transparent colour"),
        *("I;16", "I;16 TIFF", "I", "F to 1"),
    )
} | {"GIF": see_through("GIF")}


def by_library(image_data: bytes) -> np.ndarray:
    """As the image pipelines of transformers read a file."""
    return np.asarray(load_image(Image.open(io.BytesIO(image_data))))


@pytest.mark.parametrize("kind", SAME)
def test_a_kind_that_is_read_as_the_library_reads_it(kind: str) -> None:
    assert np.array_equal(pixels(SAME[kind]), by_library(SAME[kind]))


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")  # as the library reads it
@pytest.mark.parametrize("kind", OTHER)
def test_a_kind_of_which_the_library_loses_what_is_to_be_seen(kind: str) -> None:
    ours, theirs = pixels(OTHER[kind]), by_library(OTHER[kind])
    assert ours.shape == theirs.shape
    assert not np.array_equal(ours, theirs)


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
