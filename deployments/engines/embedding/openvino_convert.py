"""Converts an encoder's folder to OpenVINO's format, for a child process to call."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim

from deployments.engines.embedding.encoder import load_encoder
from deployments.engines.openvino_export import exported

CONVERTED = "encoder.xml"
MOST_TEXTS = 4096


class _Hidden(torch.nn.Module):
    """The vectors of tokens, from the encoder's arguments in the order of their names."""

    def __init__(self, model: Any, names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.model(**dict(zip(self.names, tensors, strict=True))).last_hidden_state
        return hidden


def convert(folder: Path, names: Sequence[str], most_tokens: int, place: Path) -> None:
    """Writes CONVERTED, and weights beside it, into `place`, for any number of texts of any length, in float32.

    `names`: of the encoder's arguments. Raises whatever transformers, torch and OpenVINO raise for a model that they
    cannot take.
    """
    import openvino

    model = load_encoder(folder, "cpu", "float32")
    size = (3, min(7, most_tokens))  # torch.export takes a 1 for a constant
    example = tuple(torch.full(size, int("type" not in name)) for name in names)
    sizes = {0: Dim("texts", min=1, max=MOST_TEXTS), 1: Dim("tokens", min=1, max=most_tokens)}
    converted = exported(_Hidden(model, names), example, ((sizes,) * len(names),))
    openvino.save_model(converted, place / CONVERTED, compress_to_fp16=False)
