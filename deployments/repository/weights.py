"""Which weight files of a folder are loaded, by the names of its files and its config.json. Opens no weights."""

import json
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import PurePosixPath

from deployments.repository.manifest import Unservable

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
MODULES = "modules.json"
"""Of sentence-transformers: each folder that it names holds a part of the model, with a config.json of its own."""
_OF_A_MODULE = re.compile(r"\d+_\w+/model\.safetensors")
INDEX_BYTES = 16 * 2**20
PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"})
_OTHER_FORMATS = {
    ".gguf": "GGUF, which llama.cpp reads",
    ".onnx": "ONNX",
    ".h5": "TensorFlow's",
    ".msgpack": "Flax's",
    ".npz": "NumPy's",
    ".tflite": "TensorFlow Lite's",
    ".mlmodel": "Core ML's",
    ".xml": "OpenVINO's",
    ".nemo": "NeMo's",
}
MODEL_SUFFIXES = PICKLES | _OTHER_FORMATS.keys() | {".json", ".safetensors", ".model", ".yaml"}


def loaded_weights(names: Collection[str], config: Mapping[str, object], read: Callable[[str], bytes]) -> list[str]:
    """The names of the files that are loaded. `read` gives at most INDEX_BYTES + 1 bytes of one.

    Others beside them (fp16 variants, consolidated.safetensors, pickles) are never opened. Raises Unservable.
    """
    named = config.get("transformers_weights")
    modules = sorted(filter(_OF_A_MODULE.fullmatch, names)) if MODULES in names else []
    for name in [named] if isinstance(named, str) else [SINGLE, INDEX]:
        if name in names:
            return ([name] if name.endswith(".safetensors") else _shards(name, names, read(name))) + modules
    raise Unservable(_why_none(names))


def _shards(index: str, names: Collection[str], text: bytes) -> list[str]:
    try:
        shards = set(json.loads(text[:INDEX_BYTES])["weight_map"].values())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise Unservable(f"{index[-64:]} is no index of weights") from None
    if not shards or not all(isinstance(name, str) and name.endswith(".safetensors") for name in shards):
        raise Unservable(f"{index[-64:]} names weights that are not safetensors of this folder")
    if any("/" in name for name in shards):
        raise Unservable(f"{index[-64:]} names weights that are not safetensors of this folder")
    if missing := sorted(shards - set(names)):
        raise Unservable(f"{missing[0][-64:]} is missing ({len(missing)} of {len(shards)} shards): download it again")
    return sorted(shards)


def _why_none(names: Collection[str]) -> str:
    """What the folder has in the place of weights, and what to do."""
    beside = sorted(name for name in names if name.endswith(".safetensors") and "/" not in name)
    if beside:
        return f"no {SINGLE}, only {beside[0][-64:]}: rename it if it holds the whole model in transformers' layout"
    if pickles := sorted(name for name in names if PurePosixPath(name).suffix in PICKLES):
        why = f"its weights are pickles ({pickles[0][-64:]}), which may run code"
        return f"{why}: save them as safetensors (save_pretrained does)"
    for suffix, kind in _OTHER_FORMATS.items():
        if other := sorted(name for name in names if name.endswith(suffix)):
            return f"its weights are {kind}, only ({other[0][-64:]}): take the model's folder with *.safetensors"
    return "no *.safetensors weights"
