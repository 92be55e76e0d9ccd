"""A converted encoder."""

from collections.abc import Mapping
from pathlib import Path

import torch

from deployments.engines.embedding.openvino_convert import CONVERTED
from deployments.engines.openvino_model import OpenVinoModel


class OpenVinoEncoder:
    """Vectors of tokens, float32 [texts, tokens, width], on `cores` cores. For any thread, one batch at a time."""

    own_threads = True
    device = torch.device("cpu")

    def __init__(self, place: Path, cores: int) -> None:
        """`place`: where `openvino_convert` wrote it."""
        self._model = OpenVinoModel(place / CONVERTED, cores)
        self.resident_bytes = self._model.resident_bytes

    def __call__(self, arguments: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """`arguments`: in the order in which the encoder was converted."""
        (hidden,) = self._model(list(arguments.values()))
        return hidden
