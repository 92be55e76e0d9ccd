"""A detector of RT-DETR's shape beside transformers' pipeline behind LitServe."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contest import Pace
from benchmarks.families.contest import MODEL_ID, Point, app, contest, ours
from benchmarks.families.models import save_detector
from benchmarks.models import as_base64, jpeg
from benchmarks.report import Table

THRESHOLD = 0.85
SIZE = 640, 480


def run(pace: Pace, folder: Path) -> Table:
    model = save_detector(folder / "models" / MODEL_ID)
    pictures = [jpeg(*SIZE, seed) for seed in range(6)]
    points = [Point(f"640×480, {n} at a time", pictures[0], n) for n in (1, 8)]
    cores = len(os.sched_getaffinity(0))
    settings = {
        "pipeline + LitServe": (),
        "the same, max_batch_size 8": ("--batch", 8),
        f"the same, {cores} workers": ("--workers", cores),
    }
    servers = [
        ours(model.parent, "/infer", _body, _ours),
        *(
            app(name, "detector", "/predict", _body, _theirs, "--model", model, *options)
            for name, options in settings.items()
        ),
    ]
    table = contest("Object detection: RT-DETR, R18, 640 px", "requests/s", servers, points, pictures, _same, pace)
    table.notes.append(
        f"Random weights; JPEGs of {len(pictures[0]) / 1e3:.0f} kB as base64 in JSON to all. "
        "The same answer: labels in order, scores within 1e-3, boxes within 2 pixels."
    )
    return table


def _body(image_data: bytes) -> dict[str, Any]:
    return {"ObjectDetection": {"model_id": MODEL_ID, "image_data": as_base64(image_data), "threshold": THRESHOLD}}


def _ours(reply: dict[str, Any]) -> Any:
    found = reply["ObjectDetectionResult"]
    return list(zip(found["class_labels"], found["scores"], found["boxes"], strict=True))


def _theirs(reply: dict[str, Any]) -> Any:
    corners = ("xmin", "ymin", "xmax", "ymax")
    return [(one["label"], one["score"], [one["box"][name] for name in corners]) for one in reply["objects"]]


def _same(ours: Any, theirs: Any) -> bool:
    """The pipeline cuts to integers and lets boxes reach beyond the picture."""
    if len(ours) != len(theirs):
        return False
    for (label, score, box), (other, other_score, other_box) in zip(ours, theirs, strict=True):
        within = np.clip(other_box, 0, [*SIZE, *SIZE])
        if label != other or abs(score - other_score) > 1e-3 or np.abs(np.subtract(box, within)).max() > 2:
            return False
    return True
