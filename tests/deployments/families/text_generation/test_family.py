"""The row of TextGeneration: which models it serves, its golden examples, what it prints."""

from pathlib import Path

import pytest

from deployments.contract.types import ImageClassificationResult, TextGeneration, TextGenerationResult
from deployments.families.text_generation.family import TEXT_GENERATION, GoldenText, matches

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
