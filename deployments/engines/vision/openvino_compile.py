"""Compiles an image classifier's folder into the form that OpenVINO runs fastest on these cores, in a child process.

Torch's exporter takes seconds of the interpreter and shares state with other models of the process. Trying batch sizes
and compiling in several forms takes hundreds of MiB for a moment. Both end with the child; its parent reads one file.
"""

import functools
import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from deployments.engines.measuring import fastest_of
from deployments.engines.vision.forward import BATCH_SIZES, WORTH_WAITING, Form, Forward, best_batch_size
from deployments.engines.vision.openvino_convert import convert
from deployments.engines.vision.openvino_runner import Compiled, Shape
from deployments.system.worker_process import Report, WorkerProcess, serve

BLOB, ABOUT = "model.blob", "model.json"
"""The compiled model, and its shape and the bytes of its weights."""
BASE_BYTES, BESIDE_BYTES, COMPILED_BYTES = 20 << 20, 9 << 20, 1.1
"""What OpenVINO takes for a model, for each further batch at once, and for each byte of the weights."""
LIGHT_S = 0.02
"""A forward that takes one core no longer than this runs on one, and others beside it: no thread waits for another. Not
where batches pay: handing over each image would take longer than computing it."""
SPIN_S = 5e-4
"""So long OpenVINO's further threads spin on their cores after each forward. A batch that they save less than that has
one thread: the ingress, HAProxy and the replica's event loop need those cores."""
COMPILE_S = 600.0
NICENESS = 19


def form_of(compiled: Compiled) -> Form:
    size, at_once, threads = compiled.shape
    resident_bytes = BASE_BYTES + BESIDE_BYTES * (at_once - 1) + int(COMPILED_BYTES * compiled.weight_bytes)
    return Form(compiled, "OpenVINO", resident_bytes, size, at_once, threads=threads)


def make(folder: Path, shape: tuple[int, ...], cores: int, place: Path) -> None:
    """Writes BLOB and ABOUT into `place`, for images [channels, height, width].

    Raises whatever transformers, torch and OpenVINO raise for a model that they cannot take.
    """
    converted = place / "converted.xml"
    # On Linux a thread is nice on its own. What is measured afterwards has to get its share of the cores.
    with ThreadPoolExecutor(1, initializer=os.nice, initargs=(NICENESS,)) as patient:
        patient.submit(convert, folder, shape, converted).result()
    compiled = _fastest(converted, torch.rand(shape), cores)
    (place / BLOB).write_bytes(compiled.exported())
    (place / ABOUT).write_text(json.dumps([*compiled.shape, compiled.weight_bytes]))
    for file in place.glob("converted.*"):
        file.unlink()


def make_in_child(folder: Path, shape: tuple[int, ...], cores: int, place: Path) -> None:
    """`make` in a child process. Raises RequestFailed where it raised, WorkerFailed where it did not end by itself."""
    with closing(WorkerProcess(__name__)) as worker:
        worker.ask([str(folder.absolute()), shape, cores, str(place)], COMPILE_S)


def _answer(request: Any, report: Report) -> None:
    folder, shape, cores, place = request
    disable_progress_bar()  # its lock may stay taken at the end, and the child would never exit
    logging.disable()  # it warns, with a traceback each, of operations that this torch no longer has
    make(Path(folder), tuple(shape), cores, Path(place))


def _fastest(converted: Path, example: torch.Tensor, cores: int) -> Compiled:
    # Made for one image, it takes less than one of many would; that is made only where batches are tried.
    compiled = functools.cache(lambda shape: Compiled.of(converted, shape))
    sizes = BATCH_SIZES["cpu"]

    def forward(shape: Shape) -> Forward:
        return Forward(form_of(compiled(shape)), False, cores)

    def on_all_cores(size: int) -> Forward:
        return forward(Shape(1 if size == 1 else sizes[-1], 1, cores))

    size, seconds = best_batch_size(on_all_cores, example, sizes)
    shape, side_by_side, on_one_thread = Shape(size, 1, cores), Shape(1, cores, cores), Shape(size, 1, 1)
    if cores > 1 and seconds <= LIGHT_S:
        on_one_core = fastest_of(partial(forward(side_by_side), [example]))
        if on_one_core <= min(LIGHT_S, WORTH_WAITING * seconds * cores):
            shape = side_by_side
        else:
            on_all_s, on_one_s = (
                fastest_of(partial(run, [example] * size)) for run in (forward(shape), forward(on_one_thread))
            )
            if on_one_s - on_all_s <= SPIN_S:
                shape = on_one_thread
    return compiled(shape)


if __name__ == "__main__":
    serve(_answer)
