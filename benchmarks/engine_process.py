"""An engine in a process of its own, without HTTP: orders as lines of JSON, each answered by a line of JSON."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.servers import ServerFailed, plain_environment, started, tail

ENGINE = "bare engine, one process, no HTTP"

CarryOut = Callable[[dict[str, Any]], Any]
"""An order to its answer, both as JSON knows them."""


@contextmanager
def engine_process(module: str, model: Path) -> Iterator[CarryOut]:
    """Starts a module that calls `obey`; what carries out orders there. It raises ServerFailed."""
    command = (sys.executable, "-m", module, str(model))
    with tempfile.TemporaryDirectory() as folder:
        environment = plain_environment(Path(folder)) | {"PYTHONPATH": str(Path(__file__).parent.parent)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with started(command, environment, Path(folder), **pipes) as (process, log):
            yield lambda order: _tell(process, log, order)


def _tell(process: "subprocess.Popen[str]", log: Path, order: dict[str, Any]) -> Any:
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        pass
    line = process.stdout.readline()
    if not line:
        raise ServerFailed(f"{ENGINE} ended:\n{tail(log)}")
    return json.loads(line)


def obey(carry_out: CarryOut) -> None:
    """In the process: reads orders until there are no more."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # Whatever libraries print shall not be taken for an answer.
    for line in sys.stdin:
        print(json.dumps(carry_out(json.loads(line))), file=answers, flush=True)
