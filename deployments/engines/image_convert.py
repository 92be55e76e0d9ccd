"""Converts an image classifier for OpenVINO. Runs as a program of its own, at the lowest priority.

A process of its own, since torch's exporter takes seconds of the interpreter, and shares state with whatever else runs
models. Nothing is fetched or reported: OpenVINO's frontend is called itself, not the converter around it, which tells
its maker of each conversion.
"""

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim
from transformers import AutoModelForImageClassification

import deployments

MOST_AT_ONCE = 64
PATIENCE_S = 600.0
NICENESS = 19


class _Logits(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(pixel_values=pixel_values).logits
        return logits


def convert(folder: Path, shape: tuple[int, ...], file: Path) -> None:
    """Writes the model for batches of pictures [channels, height, width] to FILE, an .xml, and weights beside it.

    In float32, whatever the model is kept in. Raises whatever transformers, torch and OpenVINO raise for a model that
    they cannot take.
    """
    import openvino
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    loading: Any = AutoModelForImageClassification
    model = loading.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, trust_remote_code=False
    ).eval()
    batch = torch.zeros(2, *shape)  # torch.export takes a single picture's 1 for a constant
    sizes = {0: Dim("batch", min=1, max=MOST_AT_ONCE)}
    with torch.no_grad():
        program = torch.export.export(_Logits(model), (batch,), dynamic_shapes=(sizes,))
        decoder = TorchFXPythonDecoder.from_exported_program(program)
    frontend = FrontEndManager().load_by_framework("pytorch")
    converted = frontend.convert(frontend.load(decoder))
    converted.reshape([openvino.Dimension(1, MOST_AT_ONCE), *shape])
    openvino.save_model(converted, file, compress_to_fp16=False)


def convert_in_child(folder: Path, shape: tuple[int, ...], file: Path) -> None:
    """`convert` in a process of its own. Raises RuntimeError with what it said last; ChildProcessError where it was
    ended, TimeoutExpired."""
    child = subprocess.run(
        [sys.executable, "-m", __name__, str(folder.absolute()), ",".join(map(str, shape)), str(file)],
        cwd=Path(deployments.__file__ or "").parent.parent,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        timeout=PATIENCE_S,
        check=False,
    )
    if child.returncode < 0:
        raise ChildProcessError(f"signal {-child.returncode}")
    if child.returncode:
        raise RuntimeError(child.stderr.decode(errors="replace").strip().rpartition("\n")[2])


if __name__ == "__main__":
    os.nice(NICENESS)
    logging.disable()  # It warns, with a traceback each, of operations that this torch no longer has.
    convert(Path(sys.argv[1]), tuple(map(int, sys.argv[2].split(","))), Path(sys.argv[3]))
