"""Runs a converted model with OpenVINO, on a CPU."""

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
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
        options = {
            "INFERENCE_NUM_THREADS": cores,
            "INFERENCE_PRECISION_HINT": "f32",
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # where weights are int8 the plugin would also round what they meet
            "ENABLE_CPU_PINNING": False,
        }
        self._compiled = openvino.Core().compile_model(model, "CPU", options)
        self._request = self._compiled.create_infer_request()
        self._lock = threading.Lock()

    def __call__(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """In the order in which the model was converted. Torch should use one thread meanwhile: its own would spin."""
        with self._lock:
            outputs = self._request.infer([tensor.contiguous().numpy() for tensor in tensors])
        return [torch.from_numpy(array) for array in outputs.values()]

    def in_place(self) -> "InPlace":
        """For one thread."""
        return InPlace(self._compiled.create_infer_request())


class InPlace:
    """Computes like the model, and copies nothing: it reads arrays where they lie, those that were set last, and its
    answers are overwritten at its next call."""

    def __init__(self, request: openvino.InferRequest) -> None:
        self._request = request
        self._held: dict[int, np.ndarray] = {}
        """OpenVINO does not hold them."""

    def set(self, first: int, arrays: Sequence[np.ndarray]) -> None:
        """Contiguous ones, for the inputs from `first` on. Setting one takes some µs."""
        for number, array in enumerate(arrays, first):
            self._request.set_input_tensor(number, openvino.Tensor(array, shared_memory=True))
            self._held[number] = array

    def __call__(self) -> list[np.ndarray]:
        return list(self._request.infer(share_outputs=True).values())
