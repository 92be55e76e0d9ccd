"""The AOTI runner: a compiled forward from its library on disk, on the weights of the model that serves already.

It calls the library's own C interface: torch's loader holds Python's lock while it computes, which would stop the
threads that carry requests and responses, and it never drops the weights that it was lent.
"""

import ctypes
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
_capsule = ctypes.pythonapi.PyCapsule_New
_capsule.restype, _capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]


class _Constant(ctypes.Structure):
    """A constant's name in the library, and the tensor that it is."""

    _fields_ = (("name", ctypes.c_char_p), ("tensor", ctypes.c_void_p))


class AotiRunner:
    """It works on the tensors of `eager`, or on `blocked` weights in their place, and copies none."""

    def __init__(self, library: Path, eager: nn.Module, blocked: Mapping[str, Tensor]) -> None:
        """Raises RuntimeError."""
        self._library = ctypes.CDLL(str(library))
        self._container = ctypes.c_void_p()
        tensors: dict[str, Tensor] = dict(eager.named_parameters(remove_duplicate=False))
        tensors |= {**dict(eager.named_buffers(remove_duplicate=False)), **blocked}
        self._call("CreateWithDevice", ctypes.byref(self._container), ctypes.c_size_t(1), b"cpu", None, of_one=False)
        self._lent = self._lend(tensors)
        outputs = ctypes.c_size_t()
        self._call("GetNumOutputs", ctypes.byref(outputs))
        self._outputs = outputs.value

    def _lend(self, tensors: Mapping[str, Tensor]) -> list[int]:
        """The references that the library holds: it takes them, and never drops them."""
        count = ctypes.c_size_t()
        self._call("GetNumConstants", ctypes.byref(count))
        wanted = [tensors[self._name("GetConstantOriginalFQN", number).decode()] for number in range(count.value)]
        handles = _handles(wanted)
        named = [_Constant(self._name("GetConstantName", number), handle) for number, handle in enumerate(handles)]
        lent = (_Constant * len(named))(*named)
        self._call("UpdateUserManagedConstantBufferPairs", lent, count, ctypes.c_bool(False), ctypes.c_bool(True))
        _tensors(handles)
        taken = ctypes.POINTER(_Constant)()
        self._call("ExtractConstantsMapEntries", ctypes.byref(taken), ctypes.byref(count), ctypes.c_bool(False))
        return [taken[number].tensor for number in range(count.value)]

    def __call__(self, *inputs: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
        tensors = (tensor for one in inputs for tensor in ([one] if isinstance(one, Tensor) else one))
        given = _handles(list(tensors))  # The library drops them.
        came = (ctypes.c_void_p * self._outputs)()
        self._call("Run", given, ctypes.c_size_t(len(given)), came, ctypes.c_size_t(self._outputs), None, None)
        return _tensors(came)

    def close(self) -> None:
        """Drops the weights. It must not be called again."""
        self._call("Delete")
        _tensors(self._lent)
        self._lent = []

    def _name(self, of: str, number: int) -> bytes:
        name = ctypes.c_char_p()
        self._call(of, ctypes.c_size_t(number), ctypes.byref(name))
        return name.value or b""

    def _call(self, name: str, *arguments: object, of_one: bool = True) -> None:
        first = (self._container,) if of_one else ()
        if getattr(self._library, f"AOTInductorModelContainer{name}")(*first, *arguments):
            raise RuntimeError(f"a compiled forward failed in {name}")


def _handles(tensors: Sequence[Tensor]) -> "ctypes.Array[Any]":
    """New references to tensors, as the C interface knows them."""
    capsules = torch._C._aoti.unsafe_alloc_void_ptrs_from_tensors(list(tensors))
    return (ctypes.c_void_p * len(capsules))(*(_pointer(capsule, None) for capsule in capsules))


def _tensors(handles: Iterable[int]) -> list[Tensor]:
    """In exchange for the references, which end."""
    capsules = [_capsule(handle, None, None) for handle in handles]
    tensors: list[Tensor] = torch._C._aoti.alloc_tensors_by_stealing_from_void_ptrs(capsules)
    return tensors
