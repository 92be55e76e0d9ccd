"""Converts an image classifier's folder to OpenVINO's format.

Nothing is fetched, and nothing is reported: this calls OpenVINO's frontend directly. `openvino.convert_model` sends
telemetry for each conversion.
"""

from pathlib import Path
from typing import Any

import torch
from torch.export import Dim
from transformers import AutoModelForImageClassification

from deployments.engines.loading import LOCAL, configuration, merge_adapter

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
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    model = AutoModelForImageClassification.from_pretrained(
        folder, config=configuration(folder), dtype=torch.float32, use_safetensors=True, **LOCAL
    )
    model = merge_adapter(model, folder).eval()
    batch = torch.zeros(2, *shape)  # torch.export takes a single image's 1 for a constant
    sizes = {0: Dim("batch", min=1, max=MOST_AT_ONCE)}
    with torch.no_grad():
        program = torch.export.export(_Logits(model), (batch,), dynamic_shapes=(sizes,))
        decoder = TorchFXPythonDecoder.from_exported_program(program)
    frontend = FrontEndManager().load_by_framework("pytorch")
    converted = frontend.convert(frontend.load(decoder))
    converted.reshape([openvino.Dimension(1, MOST_AT_ONCE), *shape])
    openvino.save_model(converted, file, compress_to_fp16=False)
