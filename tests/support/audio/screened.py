"""The logits from rounded weights, by a model of their own."""

from typing import Any

import openvino
import torch

from deployments.engines.audio.openvino_convert import screened


def logits_of_rounded_weights(weight: torch.Tensor, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """And how far each may be off."""
    entry: Any = openvino.opset13.parameter([-1, weight.shape[1]], openvino.Type.f32)
    logits, doubt = screened(entry, weight.detach().numpy())
    exact = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
    compiled = openvino.Core().compile_model(openvino.Model([logits], [entry]), "CPU", exact)
    return torch.from_numpy(compiled([hidden.numpy()])[0]), torch.from_numpy(doubt)
