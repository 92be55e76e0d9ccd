"""Runs a compiled image classifier with OpenVINO, on a CPU several times as fast as torch."""

import mmap
import queue
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import openvino
import torch

_MACHINE = ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")


class Compiled:
    """Logits, float32 [batch, labels], from pixel values, float32 [batch, channels, height, width] of one shape.

    `batch_size` is the largest batch that it takes. For any thread: `at_once` batches side by side share the `cores`,
    others wait.
    """

    def __init__(self, compiled: Any, at_once: int, weight_bytes: int, file: mmap.mmap | None = None) -> None:
        self._compiled = compiled
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(at_once):
            self._requests.put(compiled.create_infer_request())
        self.weight_bytes = weight_bytes
        self._file = file  # OpenVINO reads from the mapping, but holds no reference.

    @classmethod
    def of(cls, file: Path, batch_size: int, cores: int, at_once: int = 1) -> "Compiled":
        """`file`: written by `openvino_convert`."""
        model = openvino.Core().read_model(file)
        weight_bytes = sum(node.get_byte_size() for node in model.get_ops() if node.get_type_name() == "Constant")
        _, *picture = model.input(0).partial_shape
        model.reshape([1 if batch_size == 1 else openvino.Dimension(1, batch_size), *picture])
        return cls(openvino.Core().compile_model(model, "CPU", _options(cores, at_once)), at_once, weight_bytes)

    @classmethod
    def read(cls, kept: BinaryIO, cores: int, at_once: int, weight_bytes: int) -> "Compiled":
        """`kept`: what `exported` gave, by this OpenVINO on an equal machine (`machine`). It must be whole, which
        is not checked here, and must not change while the model is used."""
        file = mmap.mmap(kept.fileno(), 0, access=mmap.ACCESS_COPY)
        content = openvino.Tensor(np.frombuffer(file, np.uint8), shared_memory=True)
        read = openvino.Core().import_model(content, "CPU", _options(cores, at_once))
        compiled = cls(read, at_once, weight_bytes, file)
        _, *picture = read.input(0).partial_shape
        compiled(torch.zeros(1, *(side.get_length() for side in picture)))
        # OpenVINO has copied most weights: the file's pages are freed until one is read again.
        file.madvise(mmap.MADV_DONTNEED)
        return compiled

    def exported(self) -> bytes:
        """For `read`, which takes a quarter of the time of compiling."""
        kept: bytes = self._compiled.export_model().getvalue()
        return kept

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        request = self._requests.get()
        try:
            (logits,) = request.infer([batch.contiguous().numpy()], share_inputs=True).values()
        finally:
            self._requests.put(request)
        return torch.from_numpy(logits)


def machine() -> str:
    """The properties of the CPU that `read` depends on."""
    return " ".join(str(openvino.Core().get_property("CPU", name)) for name in _MACHINE)


def _options(cores: int, at_once: int) -> dict[str, Any]:
    return {
        "INFERENCE_NUM_THREADS": cores,
        "NUM_STREAMS": at_once,
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": False,
    }
