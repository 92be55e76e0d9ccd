"""A safetensors file whose header is at fault is refused before a library maps the file."""

import json
import os
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from deployments.repository.manifest import Unservable
from deployments.repository.safetensors import check_safetensors


def framed(header: object, data: bytes = b"") -> bytes:
    """The bytes of a file with this header, which may be any text."""
    text = header if isinstance(header, str) else json.dumps(header)
    return struct.pack("<Q", len(text)) + text.encode() + data


F32 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
FAULTS: list[tuple[bytes, str]] = [
    (b"\x80\x04K\x01.", "is truncated"),
    (b"\xff" * 64, "is no safetensors file"),
    (framed({"w": F32}, b"0000")[:-1], "is truncated"),
    (framed(f'{{"w":{json.dumps(F32)},"w":{json.dumps(F32)}}}', b"0000"), "a key twice"),
    (framed('{"w":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"0000"), "twice"),
    (framed("{"), "its header is not JSON"),
    (framed([]), "its header is not an object"),
    (framed({"__metadata__": {"format": 5}}), "its metadata is not a table of strings"),
    (framed({"w": F32, "v": F32}, b"0000"), "overlap or leave gaps"),
    (framed({"w": {**F32, "data_offsets": [4, 8]}}, b"00000000"), "overlap or leave gaps"),
    (framed({"w": F32}, b"00000000"), "holds more than its tensors"),
    (framed({"w": {**F32, "shape": [2]}}, b"0000"), "does not have the bytes that its shape takes"),
    (framed({"w": {**F32, "shape": [2**47] * 30}}, b"0000"), "does not have the bytes that its shape takes"),
    (framed({"w": {**F32, "shape": [-1]}}, b"0000"), "no proper shape or offsets"),
    (framed({"w": {**F32, "dtype": "OBJECT"}}, b"0000"), "a dtype that is not known"),
    (framed({"w": {**F32, "code": 1}}, b"0000"), "not described as the format wants it"),
]


@pytest.mark.parametrize(("content", "fault"), FAULTS)
def test_a_file_at_fault_is_refused_with_its_fault(tmp_path: Path, content: bytes, fault: str) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(Unservable, match=fault) as refused:
        check_safetensors(file)
    assert str(refused.value).startswith("model.safetensors: ")


def test_a_sparse_file_is_refused(tmp_path: Path) -> None:
    """A few bytes on disk that would be read as gigabytes of zeros."""
    file = tmp_path / "model.safetensors"
    file.write_bytes(framed({"w": {"dtype": "F32", "shape": [2**28], "data_offsets": [0, 2**30]}}))
    os.truncate(file, file.stat().st_size + 2**30)
    with pytest.raises(Unservable, match=r"^model.safetensors: is sparse"):
        check_safetensors(file)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.bool, torch.int64])
def test_a_file_that_the_library_wrote_passes(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {"scalar": torch.ones(()), "empty": torch.ones(0, 3), "plain": torch.ones(5, 3)}
    save_file({name: tensor.to(dtype) for name, tensor in tensors.items()}, tmp_path / "w.safetensors", {"a": "b"})
    check_safetensors(tmp_path / "w.safetensors")
