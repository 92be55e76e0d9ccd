"""`ingress`: a model so small, then none at all, that what is measured is the way to it."""

import os
import sys
from pathlib import Path
from typing import Any

from benchmarks.contest import Pace
from benchmarks.environment import FOLDER, PEER_BIN
from benchmarks.models import as_base64, jpeg, save_tiny_resnet
from benchmarks.report import US, Table
from benchmarks.servers import Server
from benchmarks.vision.image import best_label_or_size, litserve_server, mosec_server, ours
from benchmarks.vision.pictures import Point, contest, send_base64

PEERS = ("litserve", "bentoml", "mosec", "openvino")
MODEL_ID = "tiny"


def run(pace: Pace, folder: Path) -> list[Table]:
    model = save_tiny_resnet(folder / "models" / MODEL_ID)
    (folder / "none").mkdir()
    pictures = [jpeg(96, 72, seed, at_most_bytes=2048) for seed in range(8)]
    points = [Point(f"{count} connection{'s' if count > 1 else ''}", pictures[0], count) for count in (1, 16, 64)]
    sent = f"A JPEG of {len(pictures[0])} bytes as base64 in JSON to all."
    with_model = contest(
        "Ingress: a classifier of 15,000 parameters",
        [ours(model.parent, MODEL_ID), mosec_server(model), *_peers(str(model))],
        points,
        pictures,
        pace,
    )
    with_model.notes.append(sent)
    without = contest(
        "Ingress: no model, the answer at once", [_echo(folder / "none"), *_peers(None)], points, pictures, pace
    )
    without.notes.append(f"{sent} The answer is the number of bytes.")
    return [with_model, without]


def _peers(model: str | None) -> list[Server]:
    """The peers with one worker, as they come, and with one for each core."""
    cores = len(os.sched_getaffinity(0))
    options = ("--model", model) if model else ()
    return [
        litserve_server("LitServe", options),
        litserve_server(f"LitServe, {cores} workers", (*options, "--workers", str(cores))),
        _bentoml("BentoML", model, 1),
        _bentoml(f"BentoML, {cores} workers", model, cores),
        Server(
            "Ray Serve",
            (sys.executable, FOLDER / "peers" / "ray_serve_app.py", "--port", "{port}", *options),
            "/",
            send_base64,
            best_label_or_size,
        ),
    ]


def _bentoml(name: str, model: str | None, workers: int) -> Server:
    service = f"bentoml_app:{'Classifier' if model else 'Echo'}"
    where = ("--working-dir", FOLDER / "peers", "--host", "127.0.0.1", "--port", "{port}")
    return Server(
        name,
        (PEER_BIN / "bentoml", "serve", service, *where),
        "/predict",
        send_base64,
        best_label_or_size,
        {
            "BENCHMARK_MODEL": model or "",
            "BENCHMARK_WORKERS": str(workers),
            # As with the others: no line of log for each request.
            "BENTOML_CONFIG_OPTIONS": "api_server.logging.access.enabled=false",
        },
    )


def _echo(empty_repository: Path) -> Server:
    def body(image_data: bytes) -> dict[str, Any]:
        return {"Measured": {"model_id": "", "image_data": as_base64(image_data)}}

    return Server(
        US,
        (
            sys.executable,
            "-m",
            "benchmarks.http.serve_family",
            "echo",
            "--models",
            empty_repository,
            "--port",
            "{port}",
        ),
        "/infer",
        body,
        lambda reply: reply["MeasuredResult"]["size"],
        {"PYTHONPATH": str(FOLDER.parent)},  # So that Ray's processes find the family.
    )
