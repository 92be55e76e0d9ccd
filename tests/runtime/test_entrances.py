"""The application on a real Ray: every entrance, every family, from the outside."""

import base64
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

from deployments.contract.types import (
    ImageClassification,
    ImageClassificationResult,
    ObjectDetection,
    ObjectDetectionResult,
    SpeechToText,
    SpeechToTextResult,
    TextEmbedding,
    TextEmbeddingResult,
    TextGeneration,
    TextGenerationResult,
)
from serve_app.client import ModelRuntimeClient
from tests.support.audio.expected import frames, spelled
from tests.support.audio.files import saved, words
from tests.support.detection.models import expected
from tests.support.echo import Echo, EchoResult
from tests.support.embedding.models import TEXTS, mean_by_transformers
from tests.support.entrances import ENTRANCES, Entrance, over_the_handle
from tests.support.running import Running
from tests.support.text_models import PROMPTS, Reference
from tests.support.tiny_models import LABELS


@pytest.fixture(params=ENTRANCES)
def entrance(request: pytest.FixtureRequest) -> Entrance:
    return ENTRANCES[request.param]


def test_every_entrance_classifies_as_transformers_does(runtime: Running, entrance: Entrance) -> None:
    answer = entrance(runtime, ImageClassification(model_id="image", image_data=runtime.picture.read_bytes()))
    assert isinstance(answer, ImageClassificationResult)
    model = AutoModelForImageClassification.from_pretrained(runtime.models / "image")
    processor = AutoImageProcessor.from_pretrained(runtime.models / "image")
    with torch.inference_mode():
        logits = model.eval()(**processor(Image.open(runtime.picture).convert("RGB"), return_tensors="pt")).logits[0]
    expected = logits.softmax(-1).sort(descending=True)
    assert answer.class_labels == [LABELS[index] for index in expected.indices.tolist()]
    assert answer.probabilities == pytest.approx(expected.values.tolist(), abs=1e-5)


def test_every_entrance_detects_what_transformers_does(runtime: Running, entrance: Entrance) -> None:
    asked = ObjectDetection(model_id="detector", image_data=runtime.picture.read_bytes())
    answer = entrance(runtime, asked)
    assert isinstance(answer, ObjectDetectionResult)
    rows = expected(runtime.models / "detector", Image.open(runtime.picture).convert("RGB"), 0.5)
    assert rows
    assert answer.class_labels == [label for label, _, _ in rows]
    assert answer.scores == pytest.approx([score for _, score, _ in rows], abs=1e-5)
    for got, (_, _, box) in zip(answer.boxes, rows, strict=True):
        assert got == pytest.approx(box, abs=1e-2)


def test_every_entrance_writes_what_transformers_hears(runtime: Running, entrance: Entrance) -> None:
    answer = entrance(runtime, SpeechToText(model_id="speech", audio_data=saved(words(2.0), 16_000, subtype="FLOAT")))
    assert isinstance(answer, SpeechToTextResult)
    assert answer.text == spelled(runtime.models / "speech", frames(runtime.models / "speech", words(2.0)))


def test_a_form_a_batch_and_a_stream_of_speech(runtime: Running) -> None:
    sound = saved(words(2.0), 16_000, subtype="FLOAT")
    form = {"model_id": "speech", "timestamps": "word"}
    alone = httpx.post(f"{runtime.url}/infer", data=form, files={"audio": sound}, timeout=60).json()
    result = alone["SpeechToTextResult"]
    assert result["words"]
    fields = {"audio_data": base64.b64encode(sound).decode(), "timestamps": "word"}
    several = [{"SpeechToText": {"model_id": "speech", **fields, **more}} for more in ({}, {"audio_data": "AAAA"})]
    answers = httpx.post(f"{runtime.url}/infer/batch", json=several, timeout=60).json()
    assert answers[0] == alone
    assert answers[1]["Error"]["code"] == "invalid_audio"
    with ModelRuntimeClient(runtime.url) as client:
        request = SpeechToText(model_id="speech", audio_data=sound, timestamps="word", stream=True)
        with client.stream(request) as stream:
            chunks = list(stream)
        assert stream.result.text == result["text"]
        assert [segment.model_dump() for chunk in chunks for segment in chunk.segments] == result["segments"]
    assert 'family="speech_to_text"' in httpx.get(f"{runtime.url}/metrics").text


def test_every_entrance_embeds_as_transformers_does(runtime: Running, entrance: Entrance) -> None:
    answer = entrance(runtime, TextEmbedding(model_id="encoder", texts=TEXTS))
    assert isinstance(answer, TextEmbeddingResult)
    means = mean_by_transformers(runtime.models / "encoder", TEXTS)
    known = means / np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(answer.embeddings, known, atol=1e-5, rtol=1e-5)


def test_every_entrance_generates_what_transformers_does(runtime: Running, entrance: Entrance) -> None:
    answer = entrance(runtime, TextGeneration(model_id="text", prompt=PROMPTS[0], max_tokens=16))
    assert isinstance(answer, TextGenerationResult)
    assert Reference(runtime.models / "text").agrees(PROMPTS[0], 16, answer.generated_text)


def test_every_entrance_serves_a_family_that_only_the_tests_know(runtime: Running, entrance: Entrance) -> None:
    answer = entrance(runtime, Echo(model_id="any", text="é\n"))
    assert isinstance(answer, EchoResult)
    assert answer.text == "é\n"


def test_nested_ids_and_versions_are_served(runtime: Running) -> None:
    for model_id, name in (
        ("team/nested", "team/nested"),
        ("versioned", "versioned@2"),
        ("versioned@1", "versioned@1"),
    ):
        answer = over_the_handle(runtime, TextGeneration(model_id=model_id, prompt="a", max_tokens=2))
        assert isinstance(answer, TextGenerationResult)
        assert answer.model_id == name


def test_a_form_and_a_batch_detect_too(runtime: Running) -> None:
    picture = runtime.picture.read_bytes()
    form = {"model_id": "detector", "threshold": "0", "top_k": "3"}
    alone = httpx.post(f"{runtime.url}/infer", data=form, files={"picture": picture}, timeout=60).json()
    found = alone["ObjectDetectionResult"]
    assert [len(found[name]) for name in ("class_labels", "scores", "boxes")] == [3, 3, 3]
    fields = {"image_data": base64.b64encode(picture).decode(), "threshold": 0, "top_k": 3}
    several = [
        {"ObjectDetection": {"model_id": "detector", **fields}},
        {"ObjectDetection": {"model_id": "image", **fields}},
        {"ObjectDetection": {"model_id": "detector", **fields, "image_data": "AAAA"}},
    ]
    answers = httpx.post(f"{runtime.url}/infer/batch", json=several, timeout=60).json()
    assert answers[0] == alone
    assert [answer["Error"]["code"] for answer in answers[1:]] == ["wrong_family", "invalid_image"]
    assert 'family="object_detection"' in httpx.get(f"{runtime.url}/metrics").text


def test_options_of_embeddings_are_honoured_and_requests_counted(runtime: Running) -> None:
    several = [
        {"TextEmbedding": {"model_id": "encoder", "texts": ["a", "the fox"], "dimensions": 4}},
        {"TextEmbedding": {"model_id": "encoder", "texts": [], "token_ids": [[5, 6]]}},
        {"TextEmbedding": {"model_id": "text", "texts": ["a"]}},
        {"TextEmbedding": {"model_id": "encoder", "texts": ["a"], "dimensions": 17}},
        {"TextEmbedding": {"model_id": "encoder", "texts": ["a"] * 2049}},
        {"TextEmbedding": {"model_id": "encoder", "texts": ["a " * 99], "truncate": False}},
        {"TextEmbedding": {"model_id": "encoder", "texts": []}},
    ]
    first, ids, *refused, nothing = httpx.post(f"{runtime.url}/infer/batch", json=several, timeout=60).json()
    result = first["TextEmbeddingResult"]
    assert [len(vector) for vector in result["embeddings"]] == [4, 4]
    assert (result["model_id"], result["usage"]) == ("encoder", {"prompt_tokens": 7, "completion_tokens": 0})
    assert ids["TextEmbeddingResult"]["usage"]["prompt_tokens"] == 2
    codes = ["wrong_family", "invalid_request", "invalid_request", "prompt_too_long"]
    assert [answer["Error"]["code"] for answer in refused] == codes
    assert nothing["TextEmbeddingResult"]["embeddings"] == []
    assert 'family="text_embedding"' in httpx.get(f"{runtime.url}/metrics").text


def test_options_beyond_the_union_are_honoured(runtime: Running) -> None:
    image = ImageClassification(model_id="image", image_data=runtime.picture.read_bytes(), top_k=2)
    answer = over_the_handle(runtime, image)
    assert isinstance(answer, ImageClassificationResult)
    assert len(answer.class_labels) == len(answer.probabilities) == 2
    sampled = TextGeneration(model_id="text", prompt="a", max_tokens=20, temperature=1.0, seed=3)
    first, second = over_the_handle(runtime, sampled), over_the_handle(runtime, sampled)
    other = over_the_handle(runtime, sampled.model_copy(update={"seed": 4}))
    assert first == second != other


def test_no_tokens_asked_for_is_an_empty_text_and_too_many_end_at_the_context(runtime: Running) -> None:
    nothing = over_the_handle(runtime, TextGeneration(model_id="text", prompt="a", max_tokens=0))
    assert isinstance(nothing, TextGenerationResult)
    assert nothing.generated_text == ""
    whole = over_the_handle(runtime, TextGeneration(model_id="text", prompt="a", max_tokens=2**32 - 1))
    assert isinstance(whole, TextGenerationResult)
    assert whole.finish_reason in ("length", "stop")


def test_many_callers_at_once_are_all_answered(runtime: Running) -> None:
    picture = runtime.picture.read_bytes()

    def ask(number: int) -> str:
        if number % 2:
            return type(over_the_handle(runtime, ImageClassification(model_id="image", image_data=picture))).__name__
        return type(over_the_handle(runtime, TextGeneration(model_id="text", prompt="a", max_tokens=8))).__name__

    with ThreadPoolExecutor(32) as callers:
        names = list(callers.map(ask, range(64)))
    assert names == ["TextGenerationResult", "ImageClassificationResult"] * 32
