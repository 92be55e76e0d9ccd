"""`image`: MobileNetV2 at 224, a small JPEG and 12-megapixel ones, beside peers and the bare engine."""

import os
from pathlib import Path

from benchmarks.contest import Pace
from benchmarks.environment import FOLDER, OUR_BIN, PEER_PYTHON
from benchmarks.models import as_base64, copy_model, jpeg, save_mobilenet
from benchmarks.report import US, Claims, Table
from benchmarks.servers import Server
from benchmarks.vision import formats
from benchmarks.vision.pictures import Point, contest, send_base64

PEERS = ("litserve", "fastapi", "uvicorn", "mosec", "openvino")
MODEL_ID = "model"
MOSEC = ("--log-level", "warning", "--timeout", "60000", "--max-request-size", str(16 << 20))
"""Its limits, at which no request of a benchmark is refused."""


def run(pace: Pace, folder: Path, source: Path | None) -> list[Table | Claims]:
    """`source`: the folder of a real model; None makes one with random weights."""
    model = copy_model(source, folder / MODEL_ID) if source else save_mobilenet(folder / MODEL_ID)
    small, large = jpeg(320, 240, 1), jpeg(4000, 3000, 2)
    points = [Point(f"320×240, {count} connections", small, count) for count in (1, 8, 16)]
    points[0] = Point("320×240, 1 connection", small, 1)
    points.append(Point("12 megapixels, 4 connections", large, 4, patience=2))
    checked = [small, large, *(jpeg(320, 240, seed) for seed in range(3, 13)), *(jpeg(4000, 3000, s) for s in (13, 14))]
    table = contest("Image classification", servers(model), points, checked, pace, engine_of=model)
    named = source.name if source else "MobileNetV2 1.0 at 224, random weights with smoothed kernels"
    table.notes.append(
        f"{named}. JPEGs of {len(small) / 1e3:.0f} kB and {len(large) / 1e6:.1f} MB, as base64 in JSON to all; "
        "the answer is the best five labels."
    )
    return [table, formats.run(ours(model.parent, MODEL_ID), MODEL_ID)]


def servers(model: Path) -> list[Server]:
    """Us and each peer in every setting that might be its best."""
    cores = len(os.sched_getaffinity(0))
    litserve = {
        "LitServe": (),
        "LitServe, max_batch_size 8": ("--max-batch-size", "8"),
        f"LitServe, {cores} workers": ("--workers", str(cores)),
    }
    pipelines = {"pipeline + FastAPI": (), "pipeline + FastAPI, one at a time": ("--one-at-a-time",)}
    return [
        ours(model.parent, MODEL_ID),
        *(litserve_server(name, ("--model", str(model), *options)) for name, options in litserve.items()),
        *(
            Server(
                name,
                (PEER_PYTHON, FOLDER / "peers" / "pipeline_app.py", "--port", "{port}", "--model", model, *options),
                "/classify",
                send_base64,
                lambda reply: reply[0]["label"],
            )
            for name, options in pipelines.items()
        ),
        mosec_server(model),
    ]


def ours(repository: Path, model_id: str) -> Server:
    """The command that users type."""
    return Server(
        US,
        (OUR_BIN / "model-runtime", "serve", "--models", repository, "--port", "{port}"),
        "/infer",
        lambda image_data: {"ImageClassification": {"model_id": model_id, "image_data": as_base64(image_data)}},
        lambda reply: reply["ImageClassificationResult"]["class_labels"][0],
    )


def litserve_server(name: str, options: tuple[str, ...]) -> Server:
    return Server(
        name,
        (PEER_PYTHON, FOLDER / "peers" / "litserve_app.py", "--port", "{port}", *options),
        "/predict",
        send_base64,
        best_label_or_size,
    )


def mosec_server(model: Path) -> Server:
    """Two processes and OpenVINO, decoding large JPEGs small."""
    return Server(
        "mosec + OpenVINO",
        (PEER_PYTHON, FOLDER / "peers" / "mosec_app.py", "--address", "127.0.0.1", "--port", "{port}", *MOSEC),
        "/inference",
        send_base64,
        best_label_or_size,
        {"BENCHMARK_MODEL": str(model)},
    )


def best_label_or_size(reply: dict[str, list[str]]) -> object:
    """What our own peers' services answer, with a model and without."""
    return reply["class_labels"][0] if "class_labels" in reply else reply["size"]
