"""The files that transformers loads are the weights; a folder without any says what it has instead, and what to do."""

import json

import pytest

from deployments.repository.manifest import Unservable
from deployments.repository.weights import INDEX, loaded_weights

SHARDS = {f"model-0000{n}-of-00002.safetensors" for n in (1, 2)}
INDEXED = json.dumps({"weight_map": dict(zip("ab", sorted(SHARDS), strict=True))}).encode()


def weights(*names: str, index: bytes = INDEXED, **config: object) -> list[str]:
    return loaded_weights(names, config, {INDEX: index, "other.safetensors.index.json": index}.__getitem__)


def test_the_single_file_comes_before_the_shards() -> None:
    assert weights("model.safetensors", INDEX, *SHARDS, "consolidated.safetensors") == ["model.safetensors"]


def test_the_shards_are_those_of_the_index_each_once() -> None:
    assert weights(INDEX, *SHARDS, "model-00003-of-00003.safetensors") == sorted(SHARDS)


def test_the_weights_of_sentence_transformers_modules_are_loaded_too() -> None:
    names = ("model.safetensors", "1_Pooling/config.json", "2_Dense/model.safetensors", "onnx/model.safetensors")
    assert weights("modules.json", *names) == ["model.safetensors", "2_Dense/model.safetensors"]
    assert weights(*names) == ["model.safetensors"]


def test_config_json_may_name_another_file() -> None:
    assert weights("model.safetensors", "w.safetensors", transformers_weights="w.safetensors") == ["w.safetensors"]
    index = "other.safetensors.index.json"
    assert weights("model.safetensors", index, *SHARDS, transformers_weights=index) == sorted(SHARDS)


@pytest.mark.parametrize("index", [b"", b"[]", b"{}", b'{"weight_map": []}', b'{"weight_map": {"a": 1}}'])
def test_an_index_that_is_none_is_refused(index: bytes) -> None:
    with pytest.raises(Unservable, match=r"^model\.safetensors\.index\.json "):
        weights(INDEX, *SHARDS, index=index)


def test_a_missing_shard_is_named() -> None:
    with pytest.raises(Unservable, match=r"^model-00002-of-00002.safetensors is missing \(1 of 2 shards\): download"):
        weights(INDEX, min(SHARDS))


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["README.md"], "no *.safetensors weights"),
        (["model.fp16.safetensors"], "no model.safetensors, only model.fp16.safetensors: rename it"),
        (["pytorch_model.bin"], "its weights are pickles (pytorch_model.bin), which may run code: save them"),
        (["tiny-Q4.gguf"], "its weights are GGUF, which llama.cpp reads, only (tiny-Q4.gguf): take"),
        (["onnx/model.onnx"], "its weights are ONNX, only (onnx/model.onnx): take the model's folder with"),
        (["tf_model.h5"], "its weights are TensorFlow's, only (tf_model.h5)"),
    ],
)
def test_a_folder_without_weights_says_what_it_has(names: list[str], reason: str) -> None:
    with pytest.raises(Unservable) as refused:
        weights("config.json", *names)
    assert str(refused.value).startswith(reason)
