"""Converts a detector's folder to OpenVINO's format, for a child process to call."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForObjectDetection

from deployments.engines.loading import configuration
from deployments.engines.openvino_export import exported
from deployments.engines.vision.loading import load_model

CONVERTED = "detector.xml"


class _Outputs(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        outputs = self.model(pixel_values=pixel_values)
        return outputs.logits, outputs.pred_boxes


def convert(folder: Path, shape: Sequence[int], place: Path) -> None:
    """Writes CONVERTED, and weights beside it, into `place`, for one picture [channels, height, width], in float32.

    Of this shape only: torch.export fixes sizes within these models, whatever is said to be free. Raises whatever
    transformers, torch and OpenVINO raise for a model that they cannot take.
    """
    import openvino

    model = load_model(AutoModelForObjectDetection, folder, configuration(folder), "cpu", "float32")
    converted = exported(_Outputs(model), (torch.zeros(1, *shape),), None)
    openvino.save_model(converted, place / CONVERTED, compress_to_fp16=False)
