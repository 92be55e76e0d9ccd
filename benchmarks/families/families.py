"""`families`: all-MiniLM-L6-v2, a detector and a Whisper over HTTP beside their peers, with the same bytes to all."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.contest import Pace
from benchmarks.environment import setup, versions, versions_there
from benchmarks.families import detection, embedding, speech
from benchmarks.families.contest import FOLDER, INFINITY, PEERS
from benchmarks.load import require_wrk
from benchmarks.report import Table, append, heading

SUITES: dict[str, Callable[[Pace, Path], Table]] = {
    "embedding": embedding.run,
    "detection": detection.run,
    "speech": speech.run,
}
_NAMED = ("litserve", "sentence-transformers", "fastembed", "onnxruntime", "faster-whisper", "ctranslate2")


def run(only: str | None, seconds: int, rounds: int, file: Path | None) -> int:
    """Returns 1 where a contestant failed. `file`: to append the report to."""
    require_wrk()
    setup(FOLDER / "requirements.txt", PEERS)
    setup(FOLDER / "infinity.txt", INFINITY)
    pace = Pace(seconds, rounds, lead_in_s=2, settle_s=90)
    failed = False
    for name in [only] if only else SUITES:
        named = versions(_NAMED, PEERS) | versions_there(("infinity-emb",), INFINITY)
        with tempfile.TemporaryDirectory() as folder:
            table = SUITES[name](pace, Path(folder))
        written = f"{heading(f'python -m benchmarks families, {name}', named, rounds)}\n{table.markdown()}"
        print(f"\n{written}", flush=True)
        if file:
            append(file, written)
        failed |= table.failed
    return int(failed)
