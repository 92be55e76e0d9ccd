"""The row of TextEmbedding: which models it serves, its golden examples, what it prints."""

from pathlib import Path
from typing import Any

import pytest

from deployments.contract.types import TextEmbedding, TextEmbeddingResult, TextGenerationResult
from deployments.families.table import FAMILIES
from deployments.families.text_embedding.family import (
    DECODERS,
    ENCODERS,
    TEXT_EMBEDDING,
    GoldenEmbedding,
    lacks,
    matches,
)
from deployments.replica.family import model_formats
from deployments.repository.families import family_of
from deployments.repository.manifest import Manifest, Unservable
from tests.support.embedding.models import ARCHITECTURES

FILES = {"config.json", "model.safetensors", "tokenizer.json"}
GOLDEN = GoldenEmbedding(text="a text", embedding=[0.5, -0.25])


def test_the_types_that_are_served_are_those_that_the_engines_tests_hold_to_transformers() -> None:
    assert set(ARCHITECTURES) == ENCODERS | DECODERS
    assert not ENCODERS & DECODERS


@pytest.mark.parametrize(
    ("config", "served"),
    [
        ({"architectures": ["BertModel"], "model_type": "bert"}, True),
        ({"architectures": ["XLMRobertaForMaskedLM"], "model_type": "xlm-roberta"}, True),
        ({"architectures": ["T5EncoderModel"], "model_type": "t5"}, True),
        ({"model_type": "mpnet"}, True),
        ({"architectures": ["BertForSequenceClassification"], "model_type": "bert"}, False),
        ({"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"}, False),
        ({"architectures": ["LlamaModel"], "model_type": "llama"}, False),
        ({"architectures": ["ViTModel"], "model_type": "vit"}, False),
        ({}, False),
    ],
)
def test_it_serves_encoders_by_their_type_and_architecture(config: dict[str, Any], served: bool) -> None:
    assert matches(config) == served
    if served:
        assert family_of(Manifest(), config, model_formats(FAMILIES)) == "text_embedding"


def test_a_folder_of_sentence_transformers_is_its_whatever_the_architecture() -> None:
    qwen = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}
    formats = model_formats(FAMILIES)
    assert family_of(Manifest(), qwen, formats, FILES | {"modules.json"}) == "text_embedding"
    assert family_of(Manifest(), qwen, formats, FILES) == "text_generation"
    with pytest.raises(Unservable, match="'ViTModel'"):
        family_of(Manifest(), {"architectures": ["ViTModel"]}, formats, FILES)


def test_a_folder_that_cannot_be_served_says_what_it_lacks() -> None:
    assert lacks({"model_type": "qwen3"}, FILES) is None
    assert "'whisper'" in (lacks({"model_type": "whisper"}, FILES) or "")
    assert "tokenizer" in (lacks({"model_type": "bert"}, FILES - {"tokenizer.json"}) or "")


def test_a_golden_example_asks_for_a_text(tmp_path: Path) -> None:
    assert GOLDEN.request("m", tmp_path) == TextEmbedding(model_id="m", texts=["a text"])
    asked = GOLDEN.model_copy(update={"input_type": "query"}).request("m", tmp_path)
    assert asked == TextEmbedding(model_id="m", texts=["a text"], input_type="query")


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        (TextEmbeddingResult(embeddings=[[0.5, -0.25, 9.0]]), None),
        (TextEmbeddingResult(embeddings=[[0.505, -0.245]]), None),
        (TextEmbeddingResult(embeddings=[[0.5, -0.2]]), "value 1 is -0.2000 instead of -0.2500"),
        (TextEmbeddingResult(embeddings=[[0.5]]), "1 values instead of at least 2"),
        (TextGenerationResult(generated_text=""), "answered with TextGenerationResult"),
    ],
)
def test_the_first_values_of_its_vector_have_to_be_near(given: Any, fault: str | None) -> None:
    assert GOLDEN.fault(given) == fault


def test_the_command_prints_a_line_a_text() -> None:
    assert TEXT_EMBEDDING.client
    assert TEXT_EMBEDDING.client.shown(TextEmbeddingResult(embeddings=[[0.5], [1e-05]])) == "[0.5]\n[1e-05]"
