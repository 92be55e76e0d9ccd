"""The child that converts a model's folder: torch's exporter takes seconds of the interpreter, and shares state with
other models of the process."""

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Any

from transformers.utils.logging import disable_progress_bar

from deployments.system.worker_process import Report, WorkerProcess, serve

CONVERT_S = 600.0
NICENESS = 19


def convert_in_child(convert: Callable[..., None], folder: Path, details: Sequence[object], place: Path) -> None:
    """`convert(folder, *details, place)` in a child process. Raises RequestFailed where it raised, WorkerFailed where
    the child did not end by itself."""
    with closing(WorkerProcess(__name__)) as worker:
        worker.ask([convert.__module__, convert.__name__, str(folder.absolute()), details, str(place)], CONVERT_S)


def _answer(request: Any, report: Report) -> None:
    module, name, folder, details, place = request
    os.nice(NICENESS)
    disable_progress_bar()  # its lock may stay taken at the end, and the child would never exit
    logging.disable()  # torch warns, with a traceback each, of operations that it no longer has
    getattr(import_module(module), name)(Path(folder), *details, Path(place))


if __name__ == "__main__":
    serve(_answer)
