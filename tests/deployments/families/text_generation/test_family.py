"""The row of TextGeneration: which models it serves, its golden examples, what it prints."""

import json
from pathlib import Path

import pytest

from deployments.contract.types import ImageClassificationResult, TextGeneration, TextGenerationResult
from deployments.families.text_generation.family import TEXT_GENERATION, GoldenText, context_of, matches

VERSE = GoldenText(prompt="ROMEO:", max_tokens=3, text=" I am")


@pytest.mark.parametrize(
    ("architecture", "served"),
    [
        ("LlamaForCausalLM", True),
        ("GPT2LMHeadModel", True),
        ("ForCausalLMOfSomeKind", False),
        ("ViTForImageClassification", False),
    ],
)
def test_it_serves_causal_language_models(architecture: str, served: bool) -> None:
    assert matches({"architectures": [architecture]}) == served


@pytest.mark.parametrize(("part", "served"), [({"text_config": {}}, True), ({"vision_config": {}}, True), ({}, False)])
def test_a_model_for_pictures_and_texts_is_served_and_a_translator_is_not(
    part: dict[str, object], served: bool
) -> None:
    assert matches({"architectures": ["SomeForConditionalGeneration"], **part}) == served


@pytest.mark.parametrize(
    ("config", "context"),
    [
        ({"model_type": "llama", "max_position_embeddings": 4096}, 4096),
        ({"model_type": "gpt2", "n_positions": 512}, 512),
        ({"model_type": "bloom", "seq_length": 128}, 128),
        ({"model_type": "gemma3", "text_config": {"max_position_embeddings": 8192}}, 8192),
        ({"model_type": "llava", "text_config": {"model_type": "llama", "max_position_embeddings": 99}}, 99),
        (
            {
                "model_type": "qwen2",
                "max_position_embeddings": 1024,
                "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024},
            },
            4096,
        ),
        (
            {
                "model_type": "llama",
                "max_position_embeddings": 4096,
                "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4},
            },
            8192,
        ),
        ({"model_type": "mamba"}, None),
    ],
)
def test_the_context_is_read_off_config_json_as_off_a_model_that_is_loaded(
    config: dict[str, object], context: int | None, tmp_path: Path
) -> None:
    from transformers import AutoConfig

    from deployments.engines.text.folder.architecture import UNBOUNDED_CONTEXT
    from deployments.engines.text.folder.architecture import context_of as context_of_loaded

    assert context_of(config) == context
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert context_of_loaded(AutoConfig.from_pretrained(tmp_path)) == (context or UNBOUNDED_CONTEXT)


@pytest.mark.parametrize(
    "config", [{"max_position_embeddings": value} for value in (None, 0, -1, "4096", 5.0, True)] + [{"text_config": 5}]
)
def test_what_is_no_length_is_no_context(config: dict[str, object]) -> None:
    assert context_of(config) is None


def test_a_golden_example_is_decoded_greedily_whatever_the_models_defaults_are(tmp_path: Path) -> None:
    greedy = TextGeneration(model_id="m", prompt="ROMEO:", max_tokens=3, temperature=0.0)
    assert VERSE.request("m", tmp_path) == greedy


def test_only_the_same_text_is_the_right_answer() -> None:
    assert VERSE.fault(TextGenerationResult(generated_text=" I am")) is None
    assert VERSE.fault(TextGenerationResult(generated_text=" I was")) == "' I was' instead of ' I am'"
    other = ImageClassificationResult(class_labels=[], probabilities=[])
    assert VERSE.fault(other) == "answered with ImageClassificationResult"


def test_the_sample_is_shown_with_its_prompt() -> None:
    sample = TEXT_GENERATION.sample
    assert sample
    request = TEXT_GENERATION.request_for("m", sample.fields)
    assert isinstance(request, TextGeneration)
    shown: str = sample.shown(TextGenerationResult(generated_text=" I am\n"))
    assert shown == f"{request.prompt} I am"
