"""Runs a compiled image classifier with OpenVINO, on a CPU several times as fast as torch."""

import mmap
import queue
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import openvino
import torch


class Shape(NamedTuple):
    """Of the work that a model is compiled for: the largest batch, how many batches side by side, on how many threads
    together."""

    batch_size: int
    at_once: int
    threads: int


class Compiled:
    """Logits, float32 [batch, labels], from pixel values, float32 [batch, channels, height, width] of one shape.

    For any thread: `at_once` batches side by side share the threads, others wait.
    """

    def __init__(self, compiled: Any, shape: Shape, weight_bytes: int, file: mmap.mmap | None = None) -> None:
        self._compiled = compiled
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(shape.at_once):
            self._requests.put(compiled.create_infer_request())
        self.shape = shape
        self.weight_bytes = weight_bytes
        self._file = file  # OpenVINO reads from the mapping, but holds no reference.

    @classmethod
    def of(cls, file: Path, shape: Shape) -> "Compiled":
        """`file`: written by `openvino_convert`."""
        model = openvino.Core().read_model(file)
        weight_bytes = sum(node.get_byte_size() for node in model.get_ops() if node.get_type_name() == "Constant")
        _, *sides = model.input(0).partial_shape
        model.reshape([1 if shape.batch_size == 1 else openvino.Dimension(1, shape.batch_size), *sides])
        return cls(openvino.Core().compile_model(model, "CPU", _options(shape)), shape, weight_bytes)

    @classmethod
    def read(cls, kept: BinaryIO, shape: Shape, weight_bytes: int) -> "Compiled":
        """`kept`: what `exported` gave, by this OpenVINO on an equal machine (`machine`). It must be whole, which
        is not checked here, and must not change while the model is used."""
        file = mmap.mmap(kept.fileno(), 0, access=mmap.ACCESS_COPY)
        content = openvino.Tensor(np.frombuffer(file, np.uint8), shared_memory=True)
        read = openvino.Core().import_model(content, "CPU", _options(shape))
        compiled = cls(read, shape, weight_bytes, file)
        _, *sides = read.input(0).partial_shape
        compiled(torch.zeros(1, *(side.get_length() for side in sides)))
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
    names = ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")
    return " ".join(str(openvino.Core().get_property("CPU", name)) for name in names)


def _options(shape: Shape) -> dict[str, Any]:
    return {
        "INFERENCE_NUM_THREADS": shape.threads,
        "NUM_STREAMS": shape.at_once,
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": False,
    }
