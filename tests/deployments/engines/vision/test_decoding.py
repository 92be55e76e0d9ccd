"""Any file becomes an upright image or InvalidImage, within limits."""

import struct
import threading
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from deployments.contract.errors import InvalidImage
from deployments.engines.vision.decoding import DecodeLimits, decoded, is_small
from tests.support.image_files import BLUE, FILES, RED, WHITE, colours, encoded, photo, pixels, two_by_one


@pytest.mark.parametrize("kind", FILES)
def test_every_allowed_format_is_decoded(kind: str) -> None:
    image = pixels(FILES[kind](photo()))
    assert image.shape == (48, 64, 3)
    assert np.abs(image.astype(int) - np.asarray(photo()).astype(int)).mean() < 12


@pytest.mark.parametrize("file_format", ["PPM", "ICO", "TGA", "EPS", "PCX", "SGI"])
def test_other_formats_are_refused_with_the_list_of_allowed_ones(file_format: str) -> None:
    with pytest.raises(InvalidImage, match="JPEG, PNG, WebP, GIF, BMP, TIFF"):
        pixels(encoded(photo(), file_format))


PALETTE = [*RED, *BLUE]


def palette_image(mode: str = "P") -> Image.Image:
    image = Image.new("P", (2, 1))
    image.putpalette(PALETTE)
    image.putpixel((1, 0), 1)
    if mode == "PA":
        image = image.convert("PA")
        image.putalpha(Image.frombytes("L", (2, 1), bytes([255, 0])))
    return image


def sixteen_bit(*values: float, kind: type = np.uint16) -> Image.Image:
    return Image.fromarray(np.array([values], dtype=kind))


def grey(*values: int) -> list[tuple[int, ...]]:
    return [(value, value, value) for value in values]


MODES = {
    "1": (encoded(two_by_one("1", 0, 1), "PNG"), grey(0, 255)),
    "L": (encoded(two_by_one("L", 7, 200), "PNG"), grey(7, 200)),
    "LA": (encoded(two_by_one("LA", (7, 255), (7, 0)), "PNG"), grey(7, 255)),
    "half-transparent LA": (encoded(two_by_one("LA", (0, 128), (100, 51)), "PNG"), grey(127, 224)),
    "P": (encoded(palette_image(), "PNG"), [RED, BLUE]),
    "P with a transparent colour": (encoded(palette_image(), "PNG", transparency=1), [RED, WHITE]),
    "P with alpha bytes": (encoded(palette_image(), "PNG", transparency=b"\xff\x80"), [RED, (127, 127, 255)]),
    "PA": (encoded(palette_image("PA").convert("RGBA"), "PNG"), [RED, WHITE]),
    "RGB with a transparent colour": (encoded(two_by_one("RGB", RED, BLUE), "PNG", transparency=BLUE), [RED, WHITE]),
    "RGBA": (encoded(two_by_one("RGBA", (*RED, 255), (*BLUE, 128)), "PNG"), [RED, (127, 127, 255)]),
    "RGBA WebP": (
        encoded(two_by_one("RGBA", (*RED, 255), (*BLUE, 0)), "WEBP", lossless=True, exact=True),
        [RED, WHITE],
    ),
    "RGBA TIFF": (encoded(two_by_one("RGBA", (*RED, 255), (*BLUE, 128)), "TIFF"), [RED, (127, 127, 255)]),
    "I;16": (encoded(sixteen_bit(0, 255, 256, 32768, 65535), "PNG"), grey(0, 0, 1, 128, 255)),
    "I;16 TIFF": (encoded(sixteen_bit(0, 32768, 65535), "TIFF"), grey(0, 128, 255)),
    "I": (encoded(sixteen_bit(-5, 256, 65535, 70000, kind=np.int32), "TIFF"), grey(0, 1, 255, 255)),
    "F to 1": (encoded(sixteen_bit(0, 0.5, 1, kind=np.float32), "TIFF"), grey(0, 128, 255)),
    "F to 255": (encoded(sixteen_bit(-3, 7.4, 300, kind=np.float32), "TIFF"), grey(0, 7, 255)),
    "F without numbers": (encoded(sixteen_bit(np.nan, np.inf, -np.inf, kind=np.float32), "TIFF"), grey(0, 255, 0)),
    "CMYK": (encoded(two_by_one("CMYK", (0, 255, 255, 0), (0, 0, 0, 255)), "TIFF"), [RED, (0, 0, 0)]),
    "LAB": (encoded(two_by_one("LAB", (0, 128, 128), (255, 128, 128)), "TIFF"), grey(0, 255)),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_the_right_colours_over_white(mode: str) -> None:
    image_data, expected = MODES[mode]
    assert np.abs(np.array(colours(image_data)[0]) - np.array(expected)).max() <= (2 if mode == "LAB" else 0)


def test_a_cmyk_jpeg_is_not_inverted() -> None:
    corner = pixels(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95))[0, 0]
    assert np.abs(corner.astype(int) - RED).max() <= 8


def png(width: int, height: int, depth: int, colour: int, samples: bytes, extra: bytes = b"") -> bytes:
    """A PNG by hand. `samples`: all rows, each after its filter byte."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    chunks = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))]
    if extra:
        chunks.append(chunk(extra[:4], extra[4:]))
    return b"\x89PNG\r\n\x1a\n" + b"".join([*chunks, chunk(b"IDAT", zlib.compress(samples)), chunk(b"IEND", b"")])


def test_a_transparent_grey_of_sixteen_bits_is_white() -> None:
    image_data = png(2, 1, 16, 0, b"\x00" + struct.pack(">HH", 0x1000, 0x2000), b"tRNS\x10\x00")
    assert colours(image_data)[0] == grey(255, 0x20)


def test_a_colour_of_sixteen_bits_counts_by_its_high_byte() -> None:
    image_data = png(1, 1, 16, 2, b"\x00" + struct.pack(">HHH", 0xFFFF, 0x80FF, 0x0100))
    assert colours(image_data)[0] == [(255, 128, 1)]


def test_a_transparent_colour_of_sixteen_bits_is_no_failure() -> None:
    image_data = png(1, 1, 16, 2, b"\x00" + struct.pack(">HHH", 0xFFFF, 0, 0), b"tRNS\xff\xff\x00\x00\x00\x00")
    assert colours(image_data)[0][0] in (RED, WHITE)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_upright(orientation: int, file_format: str) -> None:
    upright = photo(48, 32)
    lying = {  # how a camera that was held so stores the image
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = upright if lying is None else upright.transpose(lying)
    got = pixels(encoded(stored, file_format, exif=exif))
    assert got.shape == (32, 48, 3)
    assert np.abs(got.astype(int) - np.asarray(upright).astype(int)).mean() < 8


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("exif", [b"Exif\x00\x00no such thing", b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff"])
def test_damaged_exif_leaves_the_image_as_it_lies(exif: bytes) -> None:
    assert pixels(encoded(photo(), "JPEG", dpi=(72, 72), exif=exif)).shape == (48, 64, 3)


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_counts(file_format: str) -> None:
    red, blue = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    image_data = encoded(red, file_format, save_all=True, append_images=[blue])
    assert np.abs(pixels(image_data)[4, 4].astype(int) - RED).max() <= 3


def test_a_grey_model_gets_one_channel() -> None:
    assert pixels(encoded(Image.new("RGB", (2, 2), WHITE), "PNG"), mode="L").tolist() == [[255, 255], [255, 255]]


@pytest.mark.parametrize("kind", FILES)
def test_a_truncated_file_is_refused_unless_only_its_trailer_is_gone(kind: str) -> None:
    whole = FILES[kind](photo())
    expected = pixels(whole)
    for length in {*range(0, len(whole), max(1, len(whole) // 60)), *range(len(whole) - 12, len(whole))}:
        try:
            assert (pixels(whole[:length]) == expected).all()
        except InvalidImage as refused:
            assert "damaged" in refused.message


def test_a_truncated_file_is_refused_though_another_library_wants_them_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(InvalidImage):
        pixels(encoded(photo(), "JPEG")[:-200])


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [6500, 9400, 20000, 2**31 - 1])
def test_a_decompression_bomb_is_refused_by_its_header(side: int) -> None:
    with pytest.raises(InvalidImage, match="more than 40 million pixels"):
        pixels(png(side, side, 1, 0, b""))


def test_a_tiff_whose_tile_is_a_bomb_is_refused() -> None:
    tags = [
        (256, 10),
        (257, 10),
        (258, 8),
        (259, 8),
        (262, 1),
        (277, 1),
        (322, 20000),
        (323, 20000),
        (324, 8),
        (325, 8),
    ]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    file = b"II*\x00" + struct.pack("<I", 16) + bytes(8) + struct.pack("<H", len(tags)) + entries + bytes(4)
    with pytest.raises(InvalidImage, match="million pixels"):
        pixels(file)


def test_a_jpeg_with_hundreds_of_scans_is_refused() -> None:
    whole = FILES["progressive JPEG"](photo())
    last = whole[whole.rindex(b"\xff\xda") : -2]
    with pytest.raises(InvalidImage, match="scans"):
        pixels(whole[:-2] + last * 200 + whole[-2:])


def test_a_tiff_of_more_than_a_hundred_jpegs_is_decoded() -> None:
    whole = encoded(photo(64, 4096), "TIFF", compression="jpeg", quality=90, tiffinfo={278: 16})
    assert whole.count(b"\xff\xda") > 100
    assert np.abs(pixels(whole).astype(int) - np.asarray(photo(64, 4096)).astype(int)).mean() < 8


def run_length_bmp(width: int, height: int, body: bytes) -> bytes:
    palette = bytes(range(256)) * 4
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(body), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 1024 + len(body), 0, 0, 54 + 1024) + header + palette + body


def test_a_large_run_length_bmp_is_refused_and_a_small_one_is_not() -> None:
    assert pixels(run_length_bmp(4, 2, b"\x04\x05\x00\x00\x04\x06\x00\x01")).shape == (2, 4, 3)
    with pytest.raises(InvalidImage, match="run-length"):
        pixels(run_length_bmp(3000, 3000, b"\x01\x05\x00\x00" * 3000))


def test_an_image_over_the_budget_alone_is_refused() -> None:
    with (
        pytest.raises(InvalidImage, match="memory"),
        decoded(encoded(photo(), "PNG"), limits=DecodeLimits(budget_mb=0)),
    ):
        pass


def test_decodes_together_stay_within_the_budget() -> None:
    limits = DecodeLimits(budget_mb=1)
    image_data = encoded(photo(200, 200), "PNG")  # 320 kB each: three fit
    together: list[int] = []

    def decode_one() -> None:
        with decoded(image_data, limits=limits):
            together.append(limits.reserved)

    with limits.reservation(1 << 20):
        threads = [threading.Thread(target=decode_one, daemon=True) for _ in range(12)]
        for thread in threads:
            thread.start()
        assert not together
    for thread in threads:
        thread.join(20)
    assert len(together) == 12
    assert max(together) <= 1 << 20
    assert limits.reserved == 0


def test_a_failed_decode_gives_its_reservation_back() -> None:
    limits = DecodeLimits()
    with pytest.raises(InvalidImage), decoded(encoded(photo(), "PNG")[:-80], limits=limits):
        pass
    assert limits.reserved == 0


def test_a_large_jpeg_is_decoded_small_but_no_side_under_what_was_asked() -> None:
    image_data = encoded(photo(800, 600), "JPEG")
    with decoded(image_data, at_least=128) as image:
        assert image.size == (200, 150)
    with decoded(image_data, at_least=301) as image:
        assert image.size == (800, 600)


def test_a_jpeg_is_decoded_small_where_no_remainder_shifts_its_pixels() -> None:
    for size, small in (((804, 600), (201, 150)), ((801, 600), (801, 600)), ((800, 602), (400, 301))):
        with decoded(encoded(photo(*size), "JPEG"), at_least=128) as image:
            assert image.size == small


def test_messages_tell_nothing_of_the_inside() -> None:
    for image_data in (b"", b"GIF89a", b"\xff\xd8\xff", encoded(photo(), "PNG")[:60]):
        with pytest.raises(InvalidImage, match=r"^the image is (damaged or cut short|not one of JPEG, PNG)"):
            pixels(image_data)


def test_small_is_what_its_header_says() -> None:
    """A file of few bytes may hold many pixels; what is no image is refused at once wherever it is decoded."""
    assert is_small(encoded(Image.new("RGB", (160, 120)), "JPEG"))
    large = encoded(Image.new("RGB", (320, 240)), "JPEG")
    assert not is_small(large)
    assert not is_small(large[:2] + b"\xff" + large[2:])  # a byte that fills
    assert not is_small(encoded(Image.new("L", (2000, 2000)), "PNG"))
    assert not is_small(b"\0" * 100_000)
    assert not is_small(png(1, 1, 8, 0, b"\0\0", b"zTXtComment\0\0" + zlib.compress(bytes(500_000))))
    assert is_small(b"no image")


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"comment": b"\xff\xc0\0\x11\x08\0\1\0\1"}])
def test_the_size_of_a_jpeg_is_read_without_pillow(options: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = (encoded(Image.new("RGB", size), "JPEG", **options) for size in ((160, 120), (320, 240)))
    opened: list[object] = []
    monkeypatch.setattr(Image, "open", lambda file, formats: opened.append(file))
    assert is_small(small)
    assert not is_small(large)
    assert not is_small(small.replace(b"\xff\xda", large[2:], 1))  # a second frame, before the scan
    assert not opened
