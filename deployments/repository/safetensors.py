"""Checks the header of a safetensors file against the format before any library maps the file. Plain Python."""

import json
import math
import os
from pathlib import Path
from typing import BinaryIO

from deployments.repository.manifest import Unservable
from deployments.repository.proportions import Extent

HEADER_BYTES = 32 * 2**20
_BITS = {"BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8}
_BITS |= {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "I16": 16, "U16": 16, "F16": 16, "BF16": 16}
_BITS |= {"I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64}


def check_safetensors(file: Path) -> Extent:
    """The header. Raises Unservable where the file does not match it, or is sparse."""
    try:
        with file.open("rb") as stream:
            return _check(stream)
    except Unservable as fault:
        raise Unservable(f"{file.name[:64]}: {fault}") from None


def _check(stream: BinaryIO) -> Extent:
    size = os.fstat(stream.fileno()).st_size
    if size < 8:
        raise Unservable("is truncated")
    length = int.from_bytes(stream.read(8), "little")
    if length > HEADER_BYTES:
        raise Unservable("is no safetensors file (the header would be too large)")
    if length > size - 8:
        raise Unservable("is truncated")
    tensors = _header(stream.read(length))
    _check_layout(tensors, size - 8 - length)
    # Pages that were never written: a few bytes on disk would be read as gigabytes of zeros.
    if os.lseek(stream.fileno(), 0, os.SEEK_HOLE) < size:
        raise Unservable("is sparse: it holds less than its size says")
    sides = (side for tensor in tensors.values() if isinstance(tensor, dict) for side in tensor["shape"])
    return Extent(len(tensors), max(sides, default=0))


def _header(text: bytes) -> dict[str, object]:
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError):
        raise Unservable("its header is not JSON") from None
    if not isinstance(header, dict):
        raise Unservable("its header is not an object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise Unservable("its metadata is not a table of strings")
    return header


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise Unservable("its header holds a key twice")
    return value


def _check_layout(tensors: dict[str, object], size: int) -> None:
    """Every byte belongs to one tensor, and every tensor has the bytes that its shape takes."""
    spans = sorted(_span(name, tensor) for name, tensor in tensors.items())
    end = 0
    for start, stop in spans:
        if start != end:
            raise Unservable("its tensors overlap or leave gaps")
        end = stop
    if end != size:
        raise Unservable("is truncated" if end > size else "holds more than its tensors")


def _span(name: str, tensor: object) -> tuple[int, int]:
    at = f"tensor {name[:64]!r}"
    if not isinstance(tensor, dict) or tensor.keys() != {"dtype", "shape", "data_offsets"}:
        raise Unservable(f"{at} is not described as the format wants it")
    shape, offsets, bits = tensor["shape"], tensor["data_offsets"], _BITS.get(str(tensor["dtype"]))
    if bits is None:
        raise Unservable(f"{at} has a dtype that is not known")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise Unservable(f"{at} has no proper shape or offsets")
    start, stop = offsets
    if len(shape) > 32 or (stop - start) * 8 != math.prod(shape) * bits:
        raise Unservable(f"{at} does not have the bytes that its shape takes")
    return start, stop


def _are_sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**48 for item in value)
