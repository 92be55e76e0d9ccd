"""Mean average precision at an overlap of one half, as Pascal VOC has it since 2010: the area below precision."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.floating]


@dataclass(frozen=True)
class Answer:
    """What was found in one picture, best first, and what is there."""

    labels: Sequence[str]
    scores: Sequence[float]
    boxes: Boxes
    true_labels: Sequence[str]
    true_boxes: Boxes


def overlaps(box: Boxes, others: Boxes) -> Boxes:
    """Intersection over union of one box with each of the others, x_min, y_min, x_max, y_max."""
    sides = (np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])).clip(0)
    inner = sides.prod(1)
    return np.asarray(inner / ((box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1) - inner))


def average_precision(label: str, answers: Sequence[Answer], overlap: float) -> float:
    """Of one label. Each object counts once: the best found first, what is found again is wrong."""
    found: list[tuple[float, bool]] = []
    count = 0
    for answer in answers:
        true = answer.true_boxes[[name == label for name in answer.true_labels]]
        count += len(true)
        free = np.ones(len(true), bool)
        for name, score, box in zip(answer.labels, answer.scores, answer.boxes, strict=True):
            if name != label:
                continue
            shares = overlaps(box, true) if len(true) else np.zeros(1)
            best = int(shares.argmax())
            right = bool(shares[best] >= overlap and free[best])
            free[best : best + 1] &= not right
            found.append((score, right))
    if not count or not found:
        return 0.0
    found.sort(key=lambda of_one: -of_one[0])
    right_so_far = np.cumsum([right for _, right in found])
    recall = right_so_far / count
    precision = right_so_far / np.arange(1, len(found) + 1)
    # At each recall the best precision at that recall or a higher one.
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def mean_average_precision(
    labels: Sequence[str], answers: Sequence[Answer], overlap: float = 0.5
) -> tuple[float, Mapping[str, float]]:
    """Over the labels, and each label's own."""
    each = {label: average_precision(label, answers, overlap) for label in labels}
    return sum(each.values()) / len(each), each


def described(mean: float, each: Mapping[str, float]) -> str:
    return f"mAP@0.5 {mean:.4f} (" + ", ".join(f"{label} {value:.4f}" for label, value in each.items()) + ")"
