"""What the engines of images read of a folder: the model, its labels, the channels that it takes."""

from pathlib import Path
from typing import Any

import torch

from deployments.contract.errors import ModelLoadFailed
from deployments.engines.loading import LOCAL, check_report, placed


def load_model(auto: Any, folder: Path, config: Any, device: str, dtype: str | None) -> Any:
    """The model in evaluation mode, by one of the library's Auto classes. Safetensors only, nothing fetched, nothing of
    the folder's run. `dtype`: a torch name; None is the folder's own. Raises ModelLoadFailed."""
    safe = LOCAL | {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
    model, report = auto.from_pretrained(folder, config=config, dtype=dtype or "auto", **safe)
    for _, found, expected in report["mismatched_keys"]:
        beside = expected[0] - config.num_labels  # DETR has one output more, for no object
        if beside in (0, 1) and found[0] != expected[0] and found[1:] == expected[1:]:
            outputs = f"the weights have {found[0] - beside} outputs"
            counts = f"{outputs}, config.json names {config.num_labels} labels (id2label)"
            raise ModelLoadFailed(f"{counts}: name one for each output")
    check_report(report)
    return placed(model, folder, device)


def check_dtype(dtype: str | None) -> None:
    """Raises ModelLoadFailed."""
    if dtype is not None and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise ModelLoadFailed("dtype is not one that torch knows")


def channels_of(config: Any) -> int:
    parts = (config, getattr(config, "vision_config", None), getattr(config, "backbone_config", None))
    found = (getattr(part, "num_channels", None) for part in parts)
    return next((channels for channels in found if isinstance(channels, int)), 3)


def labels_of(config: Any) -> dict[int, str]:
    """By the model's number of the class. Raises ModelLoadFailed."""
    if not config.id2label:
        raise ModelLoadFailed("config.json names no labels (id2label)")
    return {index: str(config.id2label[index]) for index in sorted(config.id2label)}
