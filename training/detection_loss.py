"""What an RT-DETR is trained by. transformers' own loss needs SciPy and matches each object once.

Here each object also teaches several places of the encoder's feature maps (as TOOD and YOLOv8 assign them), which
learns from far fewer pictures; the decoder's queries are matched one to one, since nothing is suppressed afterwards.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

PLACES = 5
"""How many places of the feature maps an object teaches."""
BOX_WEIGHT, OVERLAP_WEIGHT = 5.0, 2.0


@dataclass
class Objects:
    """Of one picture."""

    classes: Tensor
    """Int64 [objects]."""
    boxes: Tensor
    """Float32 [objects, 4], corners as shares of the sides."""


def corners(boxes: Tensor) -> Tensor:
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], -1)


def centred(boxes: Tensor) -> Tensor:
    return torch.cat([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], -1)


def overlaps(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection over union and its generalised form, of corners that broadcast."""
    inner = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    outer = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - inner + 1e-9
    return inner / union, inner / union - (outer - union) / (outer + 1e-9)


def classification(logits: Tensor, targets: Tensor, nothing: Tensor) -> Tensor:
    """Varifocal: what is there weighs as its target does, and where nothing is, `nothing`."""
    weight = torch.where(targets > 0, targets, nothing)
    return F.binary_cross_entropy_with_logits(logits, targets, weight, reduction="sum")


def regression(boxes: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    """Of centred boxes against corners."""
    distance = (boxes - centred(wanted)).abs().sum(-1)
    missing = 1 - overlaps(corners(boxes), wanted)[1]
    return ((BOX_WEIGHT * distance + OVERLAP_WEIGHT * missing) * weight).sum()


def dense_loss(logits: Tensor, boxes: Tensor, places: Tensor, objects: Objects) -> Tensor:
    """Of all places [places, classes] and [places, 4] of one picture, whose own centres are `places`."""
    targets = torch.zeros_like(logits)
    nothing = 0.75 * logits.detach().sigmoid().square()
    if not len(objects.classes):
        return classification(logits, targets, nothing)
    with torch.no_grad():
        overlap = overlaps(corners(boxes)[None], objects.boxes[:, None])[0]
        inside = (places[None] > objects.boxes[:, None, :2]) & (places[None] < objects.boxes[:, None, 2:])
        fit = logits.sigmoid()[:, objects.classes].T.sqrt() * overlap.pow(4)
        fit = torch.where(inside.all(-1), fit + 1e-9, 0.0)
        best = fit.topk(min(PLACES, fit.shape[1]), 1).indices
        taken = torch.zeros_like(fit).scatter_(1, best, 1.0) * (fit > 0)
        # A place that several objects want goes to the one that it overlaps most.
        owner = (overlap + 1e-6).mul(taken).argmax(0)
        chosen = taken.any(0).nonzero()[:, 0]
        owner = owner[chosen]
        own_fit, own_overlap = fit[owner, chosen], overlap[owner, chosen]
        most_fit = torch.zeros(len(fit)).scatter_reduce_(0, owner, own_fit, "amax")
        most_overlap = torch.zeros(len(fit)).scatter_reduce_(0, owner, own_overlap, "amax")
        score = own_fit / most_fit[owner].clamp(min=1e-9) * most_overlap[owner].clamp(min=0.05)
        targets[chosen, objects.classes[owner]] = score
    return classification(logits, targets, nothing) + regression(boxes[chosen], objects.boxes[owner], score)


def matched(logits: Tensor, boxes: Tensor, objects: Objects) -> tuple[Tensor, Tensor]:
    """Pairs of a query and an object, cheapest first, each of both at most once."""
    probability = logits.sigmoid()[:, objects.classes]
    surprise = 0.25 * (1 - probability).square() * -(probability + 1e-8).log()
    surprise -= 0.75 * probability.square() * -(1 - probability + 1e-8).log()
    distance = torch.cdist(boxes, centred(objects.boxes), p=1)
    overlap = overlaps(corners(boxes)[:, None], objects.boxes[None])[1]
    cost = (2 * surprise + BOX_WEIGHT * distance - OVERLAP_WEIGHT * overlap).numpy().copy()
    queries, wanted = [], []
    for _ in range(min(cost.shape)):
        query, place = np.unravel_index(int(cost.argmin()), cost.shape)
        queries.append(int(query))
        wanted.append(int(place))
        cost[query, :] = np.inf
        cost[:, place] = np.inf
    return torch.tensor(queries, dtype=torch.int64), torch.tensor(wanted, dtype=torch.int64)


def paired_loss(logits: Tensor, boxes: Tensor, objects: Objects, queries: Tensor, wanted: Tensor) -> Tensor:
    """Of queries [queries, classes] and [queries, 4] of which some are paired with objects."""
    targets = torch.zeros_like(logits)
    overlap = overlaps(corners(boxes[queries].detach()), objects.boxes[wanted])[0]
    targets[queries, objects.classes[wanted]] = overlap.clamp(min=1e-3)
    # Most queries lie on objects that others are matched with. They weigh more than places, or cells are found twice.
    right = classification(logits, targets, logits.detach().sigmoid())
    return right + regression(boxes[queries], objects.boxes[wanted], torch.ones(len(queries)))
