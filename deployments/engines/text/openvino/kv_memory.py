"""The memory of the KV cache: one tensor of all blocks for keys and one for values of each layer.

The tensors are as large as they may ever become, but take memory only where a block was written: the kernel gives pages
when they are first touched, and takes those of free blocks back.
"""

import mmap
from collections.abc import Iterable
from typing import Any

import numpy as np
import openvino as ov

Array = np.ndarray[Any, Any]
_ELEMENTS = {ov.Type.f32: np.float32, ov.Type.f16: np.float16, ov.Type.bf16: np.uint16}
_MAP_NORESERVE = 0x4000  # Linux's; Python has no name for it.
_FLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE


class KVMemory:
    """`tensors` by the names of the model's inputs, each [blocks, heads, BLOCK, dim]."""

    def __init__(self, compiled: Any, blocks: int) -> None:
        self._maps: list[mmap.mmap] = []
        self._arrays: list[Array] = []
        self.tensors: dict[str, ov.Tensor] = {}
        for port, name in _cache_inputs(compiled):
            shape = [blocks, *(dim.get_length() for dim in list(port.get_partial_shape())[1:])]
            kind = port.get_element_type()
            element = np.dtype(_ELEMENTS[kind])
            memory = mmap.mmap(-1, int(np.prod(shape)) * element.itemsize, flags=_FLAGS)
            array = np.frombuffer(memory, element).reshape(shape)
            self._maps.append(memory)
            self._arrays.append(array)
            self.tensors[name] = ov.Tensor(array, ov.Shape(shape), kind)

    @staticmethod
    def block_bytes(compiled: Any) -> int:
        """Of one block in all layers."""
        return sum(
            int(np.prod([dim.get_length() for dim in list(port.get_partial_shape())[1:]]))
            * np.dtype(_ELEMENTS[port.get_element_type()]).itemsize
            for port, _ in _cache_inputs(compiled)
        )

    def copy(self, source: int, target: int) -> None:
        for array in self._arrays:
            array[target] = array[source]

    def wipe(self, blocks: Iterable[int]) -> None:
        """Forget what may be NaN."""
        for array in self._arrays:
            array[list(blocks)] = 0

    def trim(self, used: int) -> None:
        """Give the memory of the blocks from `used` on back."""
        for memory, array in zip(self._maps, self._arrays, strict=True):
            start = -(-used * array[0].nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
            if start < len(memory):
                memory.madvise(mmap.MADV_DONTNEED, start)


def _cache_inputs(compiled: Any) -> list[tuple[Any, str]]:
    return [(port, name) for port in compiled.inputs for name in port.get_names() if "_cache." in name]
