"""What the engines of speech read of a folder: the model, its feature extractor, its tokenizer."""

from pathlib import Path
from typing import Any

from transformers import AutoFeatureExtractor, AutoTokenizer

from deployments.contract.errors import ModelLoadFailed
from deployments.engines.errors import one_line
from deployments.engines.loading import LOCAL, check_report, placed

UNUSED = ("masked_spec_embed",)
"""Tensors that only training uses. Many folders lack them."""


def load_model(auto: Any, folder: Path, config: Any, device: str, dtype: str | None) -> Any:
    """The model in evaluation mode, by one of the library's Auto classes. Raises ModelLoadFailed."""
    safe = LOCAL | {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
    model, report = auto.from_pretrained(folder, config=config, dtype=dtype or "auto", **safe)
    missing = [name for name in report["missing_keys"] if not str(name).endswith(UNUSED)]
    check_report(report | {"missing_keys": missing})
    return placed(model, folder, device)


def load_extractor(folder: Path) -> Any:
    """What makes a model's input of samples. Raises ModelLoadFailed."""
    try:
        extractor: Any = AutoFeatureExtractor.from_pretrained(folder, **LOCAL)
    except Exception as failure:
        raise ModelLoadFailed(f"its feature extractor cannot be read ({one_line(failure, folder)})") from failure
    if not isinstance(getattr(extractor, "sampling_rate", None), int):
        raise ModelLoadFailed("its feature extractor names no sampling_rate")
    return extractor


def load_tokenizer(folder: Path) -> Any:
    """Raises ModelLoadFailed."""
    try:
        return AutoTokenizer.from_pretrained(folder, **LOCAL)
    except Exception as failure:
        raise ModelLoadFailed(f"its tokenizer cannot be read ({one_line(failure, folder)})") from failure
