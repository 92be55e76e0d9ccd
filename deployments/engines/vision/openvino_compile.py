"""Makes of an image classifier's folder what OpenVINO runs fastest on these cores. Runs as a program of its own.

Torch's exporter takes seconds of the interpreter, and shares state with whatever else runs models. Batches that are
tried, and a model that is compiled in more than one way, take hundreds of MiB for a moment: all of that ends with the
child, and its parent reads one file.
"""

import functools
import hashlib
import json
import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from transformers.utils.logging import disable_progress_bar

import deployments
from deployments.engines.vision.forward import (
    BATCH_SIZES,
    LIGHT_S,
    WORTH_WAITING,
    Form,
    Forward,
    best_batch_size,
    fastest_of,
)
from deployments.engines.vision.openvino_convert import convert
from deployments.engines.vision.openvino_runner import Compiled

BLOB, ABOUT = "model.blob", "model.json"
BASE_BYTES, BESIDE_BYTES, COMPILED_BYTES = 20 << 20, 9 << 20, 1.1
"""What OpenVINO takes for a model, for each further batch at once, and for each byte of the weights."""
PATIENCE_S = 600.0
NICENESS = 19


class Shape(NamedTuple):
    """Of the work that a model is compiled for."""

    batch_size: int
    at_once: int


class Kept(NamedTuple):
    """A compiled model on disk: what ABOUT says of BLOB."""

    batch_size: int
    at_once: int
    weight_bytes: int
    digest: str
    """The file's SHA-256: what OpenVINO reads, it trusts."""

    @classmethod
    def of(cls, place: Path) -> "Kept":
        """Raises OSError, ValueError, TypeError."""
        return cls(*json.loads((place / ABOUT).read_bytes()))


def form_of(compiled: Compiled, shape: Shape) -> Form:
    resident_bytes = BASE_BYTES + BESIDE_BYTES * (shape.at_once - 1) + int(COMPILED_BYTES * compiled.weight_bytes)
    return Form(compiled, "OpenVINO", resident_bytes, shape.batch_size, shape.at_once, own_threads=True)


def make(folder: Path, picture: tuple[int, ...], cores: int, place: Path) -> None:
    """Writes BLOB and ABOUT into `place`, for pictures [channels, height, width].

    Raises whatever transformers, torch and OpenVINO raise for a model that they cannot take.
    """
    converted = place / "converted.xml"
    # On Linux a thread is nice on its own. What is measured afterwards has to get its share of the cores.
    with ThreadPoolExecutor(1, initializer=os.nice, initargs=(NICENESS,)) as patient:
        patient.submit(convert, folder, picture, converted).result()
    compiled, shape = _fastest(converted, torch.rand(picture), cores)
    content = compiled.to_keep()
    (place / BLOB).write_bytes(content)
    kept = Kept(*shape, compiled.weight_bytes, hashlib.sha256(content).hexdigest())
    (place / ABOUT).write_text(json.dumps(kept))
    for file in place.glob("converted.*"):
        file.unlink()


def make_in_child(folder: Path, picture: tuple[int, ...], cores: int, place: Path) -> None:
    """`make` in a process of its own. Raises RuntimeError with what it said last; ChildProcessError where it was ended,
    TimeoutExpired."""
    child = subprocess.run(
        [sys.executable, "-m", __name__, str(folder.absolute()), ",".join(map(str, picture)), str(cores), str(place)],
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


def _fastest(converted: Path, example: torch.Tensor, cores: int) -> tuple[Compiled, Shape]:
    # Made for one picture, it takes less than one of many would; that is made only where batches are tried.
    compiled = functools.cache(lambda shape: Compiled.of(converted, shape.batch_size, cores, shape.at_once))

    def forward(shape: Shape) -> Forward:
        return Forward(form_of(compiled(shape), shape), False, cores)

    sizes = BATCH_SIZES["cpu"]
    size, seconds = best_batch_size(lambda size: forward(Shape(1 if size == 1 else sizes[-1], 1)), example, sizes)
    shape, side_by_side = Shape(size, 1), Shape(1, cores)
    if cores > 1 and seconds <= LIGHT_S:
        on_one_core = fastest_of(partial(forward(side_by_side), [example]))
        if on_one_core <= min(LIGHT_S, WORTH_WAITING * seconds * cores):
            shape = side_by_side
    return compiled(shape), shape


if __name__ == "__main__":
    disable_progress_bar()  # Where nobody reads it any more its lock stays taken, and the child would never end.
    logging.disable()  # It warns, with a traceback each, of operations that this torch no longer has.
    make(Path(sys.argv[1]), tuple(map(int, sys.argv[2].split(","))), int(sys.argv[3]), Path(sys.argv[4]))
