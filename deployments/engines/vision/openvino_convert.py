"""Converts an image classifier's folder to OpenVINO's format."""

from pathlib import Path
from typing import Any

import torch
from torch.export import Dim
from transformers import AutoModelForImageClassification

from deployments.engines.loading import LOCAL, configuration, merge_adapter
from deployments.engines.openvino_export import exported

MOST_AT_ONCE = 64


class _Logits(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(pixel_values=pixel_values).logits
        return logits


def convert(folder: Path, shape: tuple[int, ...], file: Path) -> None:
    """Writes the model for batches of images [channels, height, width] to FILE, an .xml, and weights beside it.

    In float32, whatever the model is kept in. Raises whatever transformers, torch and OpenVINO raise for a model that
    they cannot take.
    """
    import openvino

    model = AutoModelForImageClassification.from_pretrained(
        folder, config=configuration(folder), dtype=torch.float32, use_safetensors=True, **LOCAL
    )
    model = merge_adapter(model, folder).eval()
    batch = torch.zeros(2, *shape)  # torch.export takes a single image's 1 for a constant
    sizes = {0: Dim("batch", min=1, max=MOST_AT_ONCE)}
    converted = exported(_Logits(model), (batch,), (sizes,))
    converted.reshape([openvino.Dimension(1, MOST_AT_ONCE), *shape])
    openvino.save_model(converted, file, compress_to_fp16=False)
