"""The family of a model is read off its model.yaml or its config.json; golden examples are held to its own form."""

import json
from collections.abc import Mapping

import pytest

from deployments.families.table import FAMILIES
from deployments.replica.family import model_formats
from deployments.repository import families
from deployments.repository.families import ModelFormat
from deployments.repository.manifest import Unservable, parse_manifest

FORMATS = model_formats(FAMILIES)
IMAGE: Mapping[str, object] = {"architectures": ["ViTForImageClassification"]}
TEXT: Mapping[str, object] = {"architectures": ["LlamaForCausalLM"]}


def is_whisper(config: Mapping[str, object]) -> bool:
    return config.get("model_type") == "whisper"


def family_of(manifest: str, config: Mapping[str, object], formats: Mapping[str, ModelFormat] = FORMATS) -> str:
    return families.family_of(parse_manifest(manifest.encode()), config, formats)


def test_config_json_tells_the_family_and_model_yaml_overrules_it() -> None:
    assert family_of("", TEXT) == "text_generation"
    assert family_of("family: image_classification", TEXT) == "image_classification"


@pytest.mark.parametrize(
    ("manifest", "config", "said"),
    [
        ("", {}, "no family serves architecture 'none'"),
        ("", {"architectures": ["A", "B"]}, "no family serves architecture 'A, B'"),
        ("family: text_generaton", TEXT, "no family 'text_generaton'; did you mean 'text_generation'"),
        ("golden: [{prompt: a, max_tokens: 1}]", TEXT, "model.yaml: golden.0.text: Field required"),
        ("golden: [{promt: a}]", TEXT, "model.yaml: golden.0: unknown key 'promt'; did you mean 'prompt'"),
        ("golden: [{prompt: a, max_tokens: 1, text: b}]", IMAGE, "model.yaml: golden.0: unknown key"),
        ("golden: [{image: a.png, label: b}, {image: ../x.png, label: a}]", IMAGE, "golden.1.image: "),
        ("golden: [{image: /x.png, label: a}]", IMAGE, "golden.0.image: "),
    ],
)
def test_a_model_that_no_family_serves_is_refused_with_the_reason(
    manifest: str, config: Mapping[str, object], said: str
) -> None:
    with pytest.raises(Unservable) as refused:
        family_of(manifest, config)
    assert said in str(refused.value)


def test_a_folder_with_the_marker_of_a_family_is_its_whatever_config_json_says() -> None:
    formats = FORMATS | {"marked": ModelFormat(matches=is_whisper, marker="marker.json")}
    for names, family in ((("marker.json",), "marked"), ((), "text_generation")):
        assert families.family_of(parse_manifest(b""), TEXT, formats, names) == family
    overruled = parse_manifest(b"family: image_classification")
    assert families.family_of(overruled, TEXT, formats, ["marker.json"]) == "image_classification"


def test_a_family_may_match_the_model_type_and_have_no_golden_examples() -> None:
    formats = {"speech_to_text": ModelFormat(matches=is_whisper)}
    assert family_of("", {"model_type": "whisper"}, formats) == "speech_to_text"
    with pytest.raises(Unservable, match="speech_to_text has no golden examples"):
        family_of("golden: [{text: a}]", {"model_type": "whisper"}, formats)


def test_a_format_survives_json() -> None:
    """The registry's actor is made from it, and Ray's dashboard shows what an actor is made from."""
    for form in FORMATS.values():
        assert ModelFormat.model_validate(json.loads(json.dumps(form.model_dump(mode="json")))) == form
