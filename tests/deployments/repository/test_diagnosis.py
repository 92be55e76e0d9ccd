"""A folder that no family serves says what it is and what to do."""

from importlib.util import find_spec

import pytest

from deployments.repository import diagnosis
from deployments.repository.diagnosis import (
    adapted,
    check_quantisation,
    kind_without_config,
    kind_without_family,
    looks_like_a_model,
    quantisation_of,
)
from deployments.repository.manifest import Unservable


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["model_index.json", "unet/config.json"], "a diffusers pipeline"),
        (["params.json", "consolidated.safetensors"], "a model in Meta's or Mistral's own layout"),
        (["tiny.gguf"], "its weights are GGUF"),
        (["model.onnx"], "its weights are ONNX"),
        (["model.safetensors"], "there is no config.json: a model is a Hugging Face folder"),
        ([], "there is no config.json"),
    ],
)
def test_a_folder_without_config_is_named_by_its_files(names: list[str], kind: str) -> None:
    assert kind_without_config(names).startswith(kind)


@pytest.mark.parametrize(
    ("config", "names", "kind"),
    [
        ({"architecture": "resnet18", "num_classes": 3}, [], "a timm model ('resnet18')"),
        ({"pretrained_cfg": {}, "architecture": "vit"}, [], "a timm model ('vit')"),
        ({"architectures": ["BertModel"]}, [], None),
    ],
)
def test_a_folder_without_family_is_named_by_its_kind(
    config: dict[str, object], names: list[str], kind: str | None
) -> None:
    found = kind_without_family(config, names)
    assert found is None if kind is None else (found or "").startswith(kind)


def test_an_adapter_names_its_base_and_no_path() -> None:
    assert adapted({"peft_type": "LORA", "base_model_name_or_path": "org/m"}).startswith("a LORA adapter of 'org/m':")
    assert adapted({"base_model_name_or_path": "/home/me/m"}).startswith("a peft adapter of 'm':")
    assert adapted({}).startswith("a peft adapter of a model without a name:")


@pytest.mark.parametrize(
    ("config", "method"),
    [
        ({}, None),
        ({"quantization_config": {"quant_method": "awq"}}, "awq"),
        ({"quantization_config": {"load_in_8bit": True}}, "bitsandbytes"),
        ({"text_config": {"quantization_config": {"quant_method": "fp8"}}}, "fp8"),
        ({"compression_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
    ],
)
def test_the_method_of_quantisation_is_found_wherever_it_stands(config: dict[str, object], method: str | None) -> None:
    assert quantisation_of(config) == method


def test_a_method_whose_packages_are_missing_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    gptq = {"quantization_config": {"quant_method": "gptq"}}
    monkeypatch.setattr(diagnosis, "find_spec", lambda name: None if name == "optimum" else find_spec("json"))
    with pytest.raises(Unservable, match="quantised with gptq, which needs optimum: pip install optimum, or take"):
        check_quantisation(gptq)
    monkeypatch.setattr(diagnosis, "find_spec", lambda name: find_spec("json"))
    check_quantisation(gptq)


@pytest.mark.parametrize("method", ["fp8", "mxfp4", "something new"])
def test_a_method_that_needs_no_package_is_left_to_the_library(method: str) -> None:
    check_quantisation({"quantization_config": {"quant_method": method}})


def test_notes_and_pictures_are_no_model() -> None:
    assert not looks_like_a_model(["README.md", "cat.png"])
    assert looks_like_a_model(["README.md", "tiny.gguf"])
