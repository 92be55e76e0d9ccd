"""Runs a converted encoder with OpenVINO, on a CPU."""

import threading
from collections.abc import Mapping
from pathlib import Path

import openvino
import torch


class OpenVinoEncoder:
    """Vectors of tokens, float32 [texts, tokens, width], on `cores` cores. For any thread, one batch at a time."""

    note = "OpenVINO"
    own_threads = True
    device = torch.device("cpu")

    def __init__(self, file: Path, cores: int) -> None:
        """`file`: written by `openvino_convert`."""
        model = openvino.Core().read_model(file)
        constants = (node for node in model.get_ops() if node.get_type_name() == "Constant")
        self.resident_bytes = int(1.1 * sum(node.get_byte_size() for node in constants))
        options = {"INFERENCE_NUM_THREADS": cores, "INFERENCE_PRECISION_HINT": "f32", "ENABLE_CPU_PINNING": False}
        self._request = openvino.Core().compile_model(model, "CPU", options).create_infer_request()
        self._lock = threading.Lock()

    def __call__(self, arguments: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """`arguments`: in the order in which the encoder was converted."""
        with self._lock:
            (hidden,) = self._request.infer([tensor.numpy() for tensor in arguments.values()]).values()
        return torch.from_numpy(hidden)
