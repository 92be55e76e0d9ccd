"""Every codec: what is written reads back the same, and no bytes whatever make anything but a clean refusal."""

import json

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as some

from deployments.contract import wire
from deployments.contract.errors import InvalidRequest, ServingError
from deployments.contract.types import (
    Error,
    ImageClassification,
    ImageClassificationResult,
    InferRequest,
    InferResponse,
    ObjectDetection,
    ObjectDetectionResult,
    SpeechToText,
    SpeechToTextResult,
    TextEmbedding,
    TextEmbeddingResult,
    TextGeneration,
    TextGenerationResult,
    Variant,
)

TEXT = some.text()
U32 = some.integers(0, 2**32 - 1)
F32 = some.floats(width=32, allow_nan=False, allow_infinity=False)
REQUESTS = some.one_of(
    some.builds(ImageClassification, model_id=TEXT, image_data=some.binary(), top_k=some.none() | U32),
    some.builds(
        ObjectDetection,
        model_id=TEXT,
        image_data=some.binary(),
        threshold=some.none() | some.floats(0, 1),
        top_k=some.none() | U32,
    ),
    some.builds(
        SpeechToText,
        model_id=TEXT,
        audio_data=some.binary(),
        language=some.none() | TEXT,
        task=some.sampled_from([None, "transcribe", "translate"]),
        stream=some.sampled_from([None, True, False]),
    ),
    some.builds(
        TextEmbedding,
        model_id=TEXT,
        texts=some.lists(TEXT),
        dimensions=some.none() | some.integers(1, 2**32 - 1),
        input_type=some.none() | TEXT,
    ),
    some.builds(
        TextGeneration,
        model_id=TEXT,
        prompt=TEXT,
        max_tokens=U32,
        temperature=some.none() | some.floats(0, 100),
        seed=some.none() | some.integers(0, 2**64 - 1),
        stop=some.none() | TEXT.filter(bool),
    ),
)
RESPONSES = some.one_of(
    some.lists(some.tuples(TEXT, F32)).map(
        lambda pairs: ImageClassificationResult(
            class_labels=[label for label, _ in pairs], probabilities=[probability for _, probability in pairs]
        )
    ),
    some.lists(some.tuples(TEXT, F32, some.tuples(F32, F32, F32, F32))).map(
        lambda found: ObjectDetectionResult(
            class_labels=[label for label, _, _ in found],
            scores=[score for _, score, _ in found],
            boxes=[box for _, _, box in found],
        )
    ),
    some.builds(SpeechToTextResult, text=TEXT, language=some.none() | TEXT),
    some.builds(TextEmbeddingResult, embeddings=some.lists(some.lists(F32))),
    some.builds(TextGenerationResult, generated_text=TEXT, model_id=some.none() | TEXT),
    some.builds(Error, message=TEXT, code=some.none() | TEXT, retry_after_ms=some.none() | U32),
)


def own_fields(variant: Variant) -> dict[str, object]:
    """What every format carries."""
    return {name: getattr(variant, name) for name, info in type(variant).model_fields.items() if info.is_required()}


@pytest.mark.parametrize("media_type", wire.MEDIA_TYPES)
@pytest.mark.parametrize("union", ["request", "response"])
def test_what_is_written_reads_back_the_same(media_type: str, union: str) -> None:
    kind: type[Variant] = InferRequest if union == "request" else InferResponse

    @given(REQUESTS if union == "request" else RESPONSES)
    def claim(variant: Variant) -> None:
        read = wire.decode(wire.encode(variant, media_type), media_type, kind)
        if media_type == wire.BINCODE:
            assert type(read) is type(variant)
            assert own_fields(read) == own_fields(variant)
        else:
            assert read == variant

    claim()


ANY_JSON = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | TEXT,
    lambda inner: some.lists(inner) | some.dictionaries(TEXT, inner),
    max_leaves=30,
)
NEARLY = some.dictionaries(
    some.sampled_from(["TextGeneration", "ImageClassification", "Error", "?"]),
    some.dictionaries(
        some.sampled_from(
            ["model_id", "prompt", "max_tokens", "image_data", "stop", "seed", "stream", "logprobs", "x"]
        ),
        ANY_JSON | some.binary(),
    ),
    max_size=2,
)


def refused_or_read(body: bytes, media_type: str) -> None:
    try:
        wire.decode(body, media_type, InferRequest)
    except InvalidRequest as refused:
        assert len(refused.message) < 1000
        assert refused.message.isprintable()


@pytest.mark.parametrize("media_type", wire.MEDIA_TYPES)
def test_no_bytes_make_anything_but_a_clean_refusal(media_type: str) -> None:
    @given(some.binary() | REQUESTS.flatmap(lambda request: broken(wire.encode(request, media_type))))
    def claim(body: bytes) -> None:
        refused_or_read(body, media_type)

    claim()


def broken(body: bytes) -> some.SearchStrategy[bytes]:
    """With a few bytes changed, cut or put in."""
    places = some.lists(some.tuples(some.integers(0, max(len(body) - 1, 0)), some.binary(max_size=9)), max_size=4)
    return places.map(lambda changes: _changed(body, changes))


def _changed(body: bytes, changes: list[tuple[int, bytes]]) -> bytes:
    for at, new in changes:
        body = body[:at] + new + body[at + len(new) // 2 :]
    return body


@given(NEARLY)
def test_nearly_a_request_is_read_or_refused(value: dict[str, object]) -> None:
    refused_or_read(msgpack.packb(value, default=str) if _packs(value) else b"", wire.MSGPACK)
    refused_or_read(json.dumps(value, default=lambda data: data.decode("latin-1")).encode(), wire.JSON)


def _packs(value: object) -> bool:
    try:
        msgpack.packb(value)
    except (OverflowError, ValueError):
        return False
    return True


@pytest.mark.parametrize("depth", [100, 900, 5_000, 1_000_000])
@pytest.mark.parametrize(("media_type", "opening"), [(wire.JSON, b"["), (wire.JSON, b'{"a":'), (wire.MSGPACK, b"\x91")])
def test_however_deep_it_is_nested_it_is_refused(media_type: str, opening: bytes, depth: int) -> None:
    with pytest.raises(ServingError):
        wire.decode(opening * depth, media_type, InferRequest)


@pytest.mark.parametrize("count", [2**31, 2**63, 2**64 - 1])
def test_a_length_beyond_the_body_allocates_nothing(count: int) -> None:
    body = b"\x00\x00\x00\x00" + count.to_bytes(8, "little") + b"x" * 64
    with pytest.raises(InvalidRequest):
        wire.decode(body, wire.BINCODE, InferRequest)
    with pytest.raises(InvalidRequest):
        wire.decode(b"\xc6\xff\xff\xff\xff" + b"x" * 64, wire.MSGPACK, InferRequest)


VALUES = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats(allow_nan=False, allow_infinity=False) | some.text(),
    lambda values: some.lists(values) | some.dictionaries(some.text(), values),
)


@given(VALUES, some.booleans(), some.sampled_from([None, 1]))
def test_json_means_what_the_standard_library_says(value: object, ascii_only: bool, indent: int | None) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    read = wire.parse_json(body.encode())
    assert repr(read) == repr(json.loads(body))
