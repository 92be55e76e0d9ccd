"""What became of one type of model, found out in a process that ends with it, and the table of all."""

import json
import os
import signal
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import transformers

TYPE_S = 240


@dataclass(frozen=True, slots=True)
class Outcome:
    """`result`: equal, refused, different, "not made" (no small model), "not answered" (transformers itself fails)."""

    result: str
    engine: str = ""
    detail: str = ""


def one_line(failure: Exception) -> str:
    return f"{type(failure).__name__}: {str(failure).strip().partition(chr(10))[0]}"[:160]


def in_a_process(examine: Callable[[str, Path], Outcome], model_type: str) -> Outcome:
    """Raises nothing: a process that dies or hangs is an outcome."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(TYPE_S)
        os.close(read)
        with tempfile.TemporaryDirectory() as folder:
            outcome = examine(model_type, Path(folder))
        os.write(write, json.dumps(asdict(outcome)).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    if answer:
        return Outcome(**json.loads(answer))
    return Outcome("different", detail=f"the process ended with status {status}")


def table(outcomes: dict[str, Outcome]) -> str:
    counts = Counter(outcome.result for outcome in outcomes.values())
    answered = sum(counts.values()) - counts["not made"] - counts["not answered"]
    lines = [
        f"transformers {transformers.__version__}: {len(outcomes)} types; of {answered} that transformers answers "
        f"{counts['equal']} equal ({counts['equal'] / max(1, answered):.0%}), {counts['refused']} refused, "
        f"{counts['different']} different; {counts['not made']} without a small model, "
        f"{counts['not answered']} that transformers itself does not answer.",
        "",
        "| type | result | engine | |",
        "|---|---|---|---|",
        *(
            f"| {name} | {one.result} | {one.engine} | {one.detail.replace('|', ' ')} |"
            for name, one in sorted(outcomes.items())
        ),
    ]
    return "\n".join(lines) + "\n"
