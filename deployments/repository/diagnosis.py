"""What a folder is that no family serves, and what to do with it: by the names of its files and its JSON.

Each reason is one line for the person who put the folder there.
"""

from collections.abc import Collection, Mapping
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import PurePosixPath

from deployments.contract.errors import quoted
from deployments.repository.manifest import Unservable
from deployments.repository.weights import MODEL_SUFFIXES, MODULES, loaded_weights

_PACKAGES = {
    "aqlm": ("aqlm",),
    "auto-round": ("auto-round",),
    "awq": ("gptqmodel",),
    "bitsandbytes": ("bitsandbytes",),
    "compressed-tensors": ("compressed-tensors",),
    "eetq": ("kernels",),
    "fbgemm_fp8": ("fbgemm-gpu",),
    "fouroversix": ("fouroversix",),
    "fp_quant": ("fp-quant",),
    "gptq": ("gptqmodel", "optimum"),
    "higgs": ("flute-kernel",),
    "hqq": ("hqq",),
    "metal": ("kernels",),
    "nvfp4": ("kernels",),
    "quanto": ("optimum-quanto",),
    "quark": ("amd-quark",),
    "sinq": ("sinq",),
    "spqr": ("spqr-quant",),
    "torchao": ("torchao",),
    "vptq": ("vptq",),
}
"""What transformers asks for before it reads weights that are quantised so, by the names that pip knows. fp8, mxfp4,
mxfp8 and bitnet need nothing that is not a dependency."""
_MODULES = {"flute-kernel": "flute", "optimum-quanto": "optimum.quanto", "amd-quark": "quark"}


PIPELINE = "model_index.json"
_KINDS = {
    PIPELINE: "a diffusers pipeline, which no family serves",
    "params.json": "a model in Meta's or Mistral's own layout: take the folder in transformers' layout",
    MODULES: "a sentence-transformers model, and its config.json is missing: download the whole folder",
}
"""By a file that only this kind has."""


def looks_like_a_model(names: Collection[str]) -> bool:
    """Whether files of these names are a model's or parts of one; notes and pictures are not."""
    return any(PurePosixPath(name).suffix in MODEL_SUFFIXES for name in names)


def kind_without_config(names: Collection[str]) -> str:
    """Of a folder without a config.json."""
    for name, kind in _KINDS.items():
        if name in names:
            return kind
    try:
        loaded_weights(names, {}, lambda name: b"")
    except Unservable as reason:
        if "only" in str(reason) or "pickles" in str(reason):
            return str(reason)
    return "there is no config.json: a model is a Hugging Face folder with config.json and *.safetensors"


def kind_without_family(config: Mapping[str, object], names: Collection[str]) -> str | None:
    """Of a folder whose config.json no family matches, where it is known."""
    if "pretrained_cfg" in config or (isinstance(config.get("architecture"), str) and "num_classes" in config):
        return f"a timm model ({quoted(str(config.get('architecture')))}): take one in transformers' own format"
    return None


TOKENIZERS = ("tokenizer.json", "*.model", "*.tiktoken", "vocab*", "*_vocab*", "tekken.json", "*.spm")
"""Files that hold a tokenizer's vocabulary."""


def without_tokenizer(names: Collection[str]) -> str | None:
    """Of a model of texts whose folder has no tokenizer."""
    if any(fnmatch(name, pattern) for name in names for pattern in TOKENIZERS):
        return None
    return "there are no tokenizer files: add tokenizer.json (or tokenizer.model) from where the weights came from"


def without_preprocessor(names: Collection[str]) -> str | None:
    """Of a model of images whose folder has no preprocessor."""
    if not {"preprocessor_config.json", "processor_config.json"} & set(names):
        return "there is no preprocessor_config.json: add it from where the weights came from"
    return None


def adapted(adapter: Mapping[str, object]) -> str:
    """What an adapter_config.json is of."""
    kind = quoted(str(adapter.get("peft_type", "peft")))[1:-1]
    base = str(adapter.get("base_model_name_or_path") or "")
    of = quoted(base.rpartition("/")[2] if base.startswith(("/", ".")) else base) if base else "a model without a name"
    return f"a {kind} adapter of {of}: merge the two (peft's merge_and_unload) and save the result"


def quantisation_of(config: Mapping[str, object]) -> str | None:
    """The method that the weights are quantised with."""
    text = config.get("text_config")
    for part in (config, text if isinstance(text, Mapping) else {}):
        for key in ("quantization_config", "compression_config"):
            if isinstance(found := part.get(key), Mapping):
                by_flag = "bitsandbytes" if found.get("load_in_4bit") or found.get("load_in_8bit") else key[:-7]
                return str(found.get("quant_method") or by_flag)
    return None


def check_quantisation(config: Mapping[str, object]) -> None:
    """Raises Unservable where a package is missing that reads the weights."""
    method = quantisation_of(config)
    if missing := [name for name in _PACKAGES.get(method or "", ()) if not _is_installed(name)]:
        what = f"quantised with {method}, which needs {' and '.join(missing)}"
        raise Unservable(f"{what}: pip install {' '.join(missing)}, or take the folder that is not quantised")


def _is_installed(package: str) -> bool:
    try:
        return find_spec(_MODULES.get(package, package.replace("-", "_"))) is not None
    except ModuleNotFoundError:  # The package that it lies in.
        return False
