"""The unions as bytes: what a Rust program writes is read, and nothing but a clean error comes of the rest.

What holds for any value and any bytes is in tests/hostile/test_codecs.py.
"""

import base64
import json
import random
import re
import struct
from pathlib import Path
from urllib.parse import quote

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deployments.contract import wire
from deployments.contract.errors import InvalidRequest, UnsupportedMediaType
from deployments.contract.types import (
    ImageClassification,
    InferRequest,
    InferResponse,
    ObjectDetection,
    ObjectDetectionResult,
    SpeechToText,
    TextGeneration,
    TextGenerationResult,
)

RUST = Path(__file__).parents[2] / "wire"
MEDIA_TYPE = {".json": wire.JSON, ".bincode": wire.BINCODE}


def text_request(max_tokens: str = "5", extra: str = "") -> bytes:
    return f'{{"TextGeneration":{{"model_id":"m","prompt":"p","max_tokens":{max_tokens}{extra}}}}}'.encode()


@pytest.mark.parametrize("file", sorted(RUST.iterdir()), ids=lambda file: file.name)
def test_what_rust_writes_is_read_and_written_alike(file: Path) -> None:
    union: type[InferRequest | InferResponse] = InferRequest if file.name.startswith("req") else InferResponse
    media_type = MEDIA_TYPE[file.suffix]
    variant = wire.decode(file.read_bytes(), media_type, union)
    written = wire.encode(variant, media_type)
    assert wire.decode(written, media_type, union) == variant
    if isinstance(variant, ImageClassification | ObjectDetection | SpeechToText) and file.suffix == ".json":
        field = "audio_data" if isinstance(variant, SpeechToText) else "image_data"
        assert base64.b64decode(json.loads(written)[type(variant).__name__][field]) == getattr(variant, field)
    else:
        assert written == file.read_bytes()


def test_a_box_is_16_bytes_without_a_length() -> None:
    found = ObjectDetectionResult(class_labels=["a"], scores=[0.5], boxes=[(1, 2, 3, 4)], model_id="m")
    written = wire.encode(found, wire.BINCODE)
    assert written[4 + 17 + 12 :] == (1).to_bytes(8, "little") + struct.pack("<4f", 1, 2, 3, 4)
    body = json.loads(wire.encode(found, wire.JSON))["ObjectDetectionResult"]
    assert body["boxes"] == [[1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("threshold", "taken"),
    [("0", True), ("1", True), ("0.25", True), ("null", True), ("1.5", False), ("-0.1", False), ('"0"', False)],
)
def test_a_threshold_is_a_number_from_0_to_1(threshold: str, taken: bool) -> None:
    body = f'{{"ObjectDetection":{{"model_id":"m","image_data":"","threshold":{threshold}}}}}'.encode()
    if taken:
        request = wire.decode(body, wire.JSON, InferRequest)
        assert isinstance(request, ObjectDetection)
        assert request.threshold == json.loads(threshold)
    else:
        with pytest.raises(InvalidRequest, match="ObjectDetection.threshold"):
            wire.decode(body, wire.JSON, InferRequest)


def test_both_encodings_of_a_request_mean_the_same() -> None:
    for file in RUST.glob("*.json"):
        union: type[InferRequest | InferResponse] = InferRequest if file.name.startswith("req") else InferResponse
        twin = wire.decode(file.with_suffix(".bincode").read_bytes(), wire.BINCODE, union)
        assert wire.encode(wire.decode(file.read_bytes(), wire.JSON, union), wire.BINCODE) == wire.encode(
            twin, wire.BINCODE
        )


SERDE = Path(__file__).with_name("serde.jsonl")
"""Whether serde_json 1.0.87 (serde 1.0.152, `derive(Deserialize)`) takes a body, written as Latin-1."""


def test_what_serde_refuses_is_refused_and_what_it_takes_is_taken() -> None:
    wrong = []
    for line in SERDE.read_text("ascii").splitlines():
        taken_by_serde, body = json.loads(line)
        try:
            wire.decode(body.encode("latin-1"), wire.JSON, InferRequest)
            taken = True
        except InvalidRequest:
            taken = False
        if taken != taken_by_serde:
            wrong.append((body, taken))
    assert wrong == []


@pytest.mark.parametrize(
    "max_tokens",
    ["5.0", '"5"', "true", "null", "-1", "4294967296", "-0", "[5]", "{}", "9" * 30],
    ids=lambda value: value[:9],
)
def test_a_wrong_number_is_refused_by_its_field(max_tokens: str) -> None:
    with pytest.raises(InvalidRequest, match=r"TextGeneration\.max_tokens"):
        wire.decode(text_request(max_tokens), wire.JSON, InferRequest)


@pytest.mark.parametrize("max_tokens", ["NaN", "Infinity", "9" * 5000, "05", "5x"], ids=lambda value: value[:9])
def test_what_is_no_json_number_is_malformed(max_tokens: str) -> None:
    with pytest.raises(InvalidRequest, match="malformed JSON"):
        wire.decode(text_request(max_tokens), wire.JSON, InferRequest)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"TextGeneration":{"model_id":"m","max_tokens":1}}', r"TextGeneration\.prompt: Field required"),
        (text_request(extra=',"prompt":"q"'), r"TextGeneration\.prompt: duplicate field"),
        (text_request(extra=',"\\ud800":1'), r"malformed JSON: the key '\\ud800' has a lone surrogate"),
        (
            text_request(extra=',"messages":[{"role":"user","content":"","role":"user"}]'),
            r"TextGeneration\.messages: duplicate field 'role'",
        ),
        (text_request() + b"x", "malformed JSON"),
        (b"\xef\xbb\xbf" + text_request(), "malformed JSON"),
        (text_request().replace(b'"p"', b'"\x01"'), "malformed JSON"),
        (text_request().replace(b'"p"', b'"\\ud800"'), r"TextGeneration\.prompt: .*unicode"),
        (text_request().replace(b'"p"', b'"\xff"'), "not UTF-8"),
        (text_request().replace(b'"p"', b"5"), r"TextGeneration\.prompt"),
        (b'{"TextGeneration":[]}', "TextGeneration: expected an object"),
        (b'{"TextGeneration":{},"ImageClassification":{}}', "exactly one variant"),
        (b'{"TextGeneration":{},"TextGeneration":{}}', "exactly one variant"),
        (b'{"Text\\u0000Generation":{}}', r"unknown variant 'Text\\x00Generation'"),
        (b"{}", "exactly one variant"),
        (b'"TextGeneration"', "exactly one variant"),
        (b"", "malformed JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"ImageClassification":{"model_id":"m","image_data":[1,true]}}', "image_data: every element"),
        (b'{"ImageClassification":{"model_id":"m","image_data":[1.0]}}', "image_data: every element"),
        (b'{"ImageClassification":{"model_id":"m","image_data":[1,-0]}}', "image_data: every element"),
        (b'{"ImageClassification":{"model_id":"m","image_data":[256]}}', "image_data: .*0 to 255"),
        (b'{"ImageClassification":{"model_id":"m","image_data":"a-.="}}', "image_data: the string is not base64"),
        (b'{"ImageClassification":{"model_id":"m","image_data":"data:image/png,AP8="}}', "the string is not base64"),
        (b'{"ImageClassification":{"model_id":"m","image_data":"https://a/b.png"}}', "the string is not base64"),
        (b'{"ImageClassification":{"model_id":"m","image_data":"\xc3\xa9"}}', "image_data: .*not base64"),
        (b'{"ImageClassification":{"model_id":"m","image_data":null}}', r"ImageClassification\.image_data"),
    ],
)
def test_malformed_json_is_refused_with_the_reason(body: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        wire.decode(body, wire.JSON, InferRequest)


def test_a_duplicate_among_many_keys_is_found_in_linear_time() -> None:
    """Quadratic time would be half an hour here."""
    many = "".join(f',"{number}":0' for number in range(300_000))
    with pytest.raises(InvalidRequest, match=r"TextGeneration\.prompt: duplicate field"):
        wire.decode(text_request(extra=many + ',"prompt":"q"'), wire.JSON, InferRequest)


@pytest.mark.parametrize("prompt", ["-0", "-0.5 and -0e1", "x-0,"])
def test_a_text_may_speak_of_a_negative_zero(prompt: str) -> None:
    body = text_request().replace(b'"p"', json.dumps(prompt).encode())
    assert wire.decode(body, wire.JSON, InferRequest) == TextGeneration(model_id="m", prompt=prompt, max_tokens=5)


def test_unknown_fields_any_order_and_null_options_are_accepted() -> None:
    body = b'{"TextGeneration":{"later":[{}],"later":1,"max_tokens":5,"temperature":null,"prompt":"p","model_id":"m"}}'
    assert wire.decode(body, wire.JSON, InferRequest) == TextGeneration(model_id="m", prompt="p", max_tokens=5)


def test_image_bytes_may_be_base64_or_integers() -> None:
    for data in ("[0,255]", '"AP8="'):
        body = f'{{"ImageClassification":{{"model_id":"m","image_data":{data}}}}}'.encode()
        assert wire.decode(body, wire.JSON, InferRequest) == ImageClassification(model_id="m", image_data=b"\0\xff")


@given(
    st.text("AZaz09+/==-_ \n\u00e9", max_size=12) | st.binary(max_size=300).map(lambda b: base64.b64encode(b).decode())
)
@example("QUJD=")  # the standard library takes padding where none is due
def test_a_base64_string_is_what_the_standard_library_makes_of_it_or_refused(text: str) -> None:
    body = json.dumps({"ImageClassification": {"model_id": "m", "image_data": text}}).encode()
    usual = re.sub("\\s", "", text).replace("-", "+").replace("_", "/")
    usual += "" if "=" in usual else "=" * (-len(usual) % 4)
    try:
        expected = base64.b64decode(usual, validate=True) if len(usual) % 4 == 0 else None
    except ValueError:
        expected = None
    if expected is None:
        with pytest.raises(InvalidRequest, match="image_data: .*not base64"):
            wire.decode(body, wire.JSON, InferRequest)
    else:
        assert wire.decode(body, wire.JSON, InferRequest) == ImageClassification(model_id="m", image_data=expected)


BASE64_AS_PEOPLE_WRITE_IT = {
    "a data: URL": lambda data: "data:image/jpeg;base64," + base64.b64encode(data).decode(),
    "a data: URL in other letters": lambda data: "DATA:image/JPEG;name=a.jpg;BASE64," + base64.b64encode(data).decode(),
    "a quoted data: URL": lambda data: "data:;base64," + quote(base64.b64encode(data).decode(), safe=""),
    "lines": lambda data: base64.encodebytes(data).decode(),
    "lines of MIME": lambda data: base64.encodebytes(data).decode().replace("\n", "\r\n"),
    "for URLs": lambda data: base64.urlsafe_b64encode(data).decode(),
    "for URLs, unpadded": lambda data: base64.urlsafe_b64encode(data).decode().rstrip("="),
    "unpadded": lambda data: base64.b64encode(data).decode().rstrip("="),
    "with spaces around it": lambda data: f" {base64.b64encode(data).decode()}\n",
}


@pytest.mark.parametrize("kind", BASE64_AS_PEOPLE_WRITE_IT)
@pytest.mark.parametrize("size", [0, 1, 2, 3, 1_000])
def test_base64_is_taken_as_people_write_it(kind: str, size: int) -> None:
    data = random.Random(size).randbytes(size)
    request = {"ImageClassification": {"model_id": "m", "image_data": BASE64_AS_PEOPLE_WRITE_IT[kind](data)}}
    expected = ImageClassification(model_id="m", image_data=data)
    assert wire.decode(json.dumps(request).encode(), wire.JSON, InferRequest) == expected
    assert wire.decode(msgpack.packb(request), wire.MSGPACK, InferRequest) == expected


def test_an_unknown_media_type_is_refused() -> None:
    with pytest.raises(UnsupportedMediaType, match="'text/plain'"):
        wire.decode(b"", "text/plain", InferRequest)


def test_a_bincode_length_beyond_the_body_is_refused_before_it_is_believed() -> None:
    lying = (1).to_bytes(4, "little") + (2**63).to_bytes(8, "little") + b"m"
    with pytest.raises(InvalidRequest, match=f"length {2**63} at byte 4 is beyond the body's end"):
        wire.decode(lying, wire.BINCODE, InferRequest)


def test_bincode_takes_no_trailing_bytes() -> None:
    body = wire.encode(TextGeneration(model_id="m", prompt="p", max_tokens=1), wire.BINCODE)
    with pytest.raises(InvalidRequest, match="trailing"):
        wire.decode(body + b"\0", wire.BINCODE, InferRequest)


def test_bincode_carries_the_unions_own_fields_only() -> None:
    full = TextGenerationResult(generated_text="t", model_id="m", finish_reason="stop")
    assert wire.encode(full, wire.BINCODE) == wire.encode(TextGenerationResult(generated_text="t"), wire.BINCODE)


def test_messagepack_has_bytes_as_bin() -> None:
    body = msgpack.packb({"ImageClassification": {"model_id": "m", "image_data": b"\0\xff"}})
    assert wire.decode(body, wire.MSGPACK, InferRequest) == ImageClassification(model_id="m", image_data=b"\0\xff")


@pytest.mark.parametrize("value", [{b"x": {}}, {b"TextGeneration": {}}, {1: {}}, {"TextGeneration": {b"x": 1}}])
def test_messagepack_keys_that_are_no_text_are_refused(value: object) -> None:
    with pytest.raises(InvalidRequest):
        wire.decode(msgpack.packb(value), wire.MSGPACK, InferRequest)


def test_an_index_can_not_be_taken_twice() -> None:
    with pytest.raises(TypeError, match="index 0 .* is taken"):

        class Other(InferRequest, index=0):
            pass
