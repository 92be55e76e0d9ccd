"""Runs a converted model with OpenVINO, on a CPU."""

import threading
from collections.abc import Sequence
from pathlib import Path

import openvino
import torch


class OpenVinoModel:
    """Tensors from tensors, on `cores` cores. For any thread, one call at a time. `resident_bytes` is what it takes."""

    note = "OpenVINO"

    def __init__(self, file: Path, cores: int) -> None:
        """`file`: an .xml, with the weights beside it."""
        model = openvino.Core().read_model(file)
        constants = (node for node in model.get_ops() if node.get_type_name() == "Constant")
        self.resident_bytes = int(1.1 * sum(node.get_byte_size() for node in constants))
        options = {"INFERENCE_NUM_THREADS": cores, "INFERENCE_PRECISION_HINT": "f32", "ENABLE_CPU_PINNING": False}
        self._request = openvino.Core().compile_model(model, "CPU", options).create_infer_request()
        self._lock = threading.Lock()

    def __call__(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """In the order in which the model was converted. Torch should use one thread meanwhile: its own would spin."""
        with self._lock:
            outputs = self._request.infer([tensor.contiguous().numpy() for tensor in tensors])
        return [torch.from_numpy(array) for array in outputs.values()]
