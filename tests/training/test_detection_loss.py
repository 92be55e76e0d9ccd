"""The loss is small where the answer is right, and matches each query and object once."""

import torch
from torch import Tensor

from training.detection_loss import Objects, centred, corners, dense_loss, matched, overlaps, paired_loss

OBJECTS = Objects(torch.tensor([0, 2]), torch.tensor([[0.1, 0.1, 0.3, 0.3], [0.5, 0.5, 0.9, 0.8]]))
NOTHING = Objects(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))


def logits(*classes: int | None) -> Tensor:
    """Sure of one class each, or that there is nothing."""
    made = torch.full((len(classes), 3), -8.0)
    for query, index in enumerate(classes):
        if index is not None:
            made[query, index] = 8.0
    return made


def test_overlaps_of_boxes_apart_and_alike() -> None:
    same, general = overlaps(OBJECTS.boxes, OBJECTS.boxes)
    assert torch.allclose(same, torch.ones(2))
    assert torch.allclose(general, torch.ones(2))
    apart, far = overlaps(OBJECTS.boxes[0], OBJECTS.boxes[1])
    assert apart == 0
    assert far < 0
    assert torch.allclose(corners(centred(OBJECTS.boxes)), OBJECTS.boxes)


def test_each_query_and_object_is_matched_once() -> None:
    boxes = centred(OBJECTS.boxes)[[1, 0, 0]]
    queries, wanted = matched(logits(2, 0, 0), boxes, OBJECTS)
    assert len(set(queries.tolist())) == len(set(wanted.tolist())) == 2
    assert (queries.tolist()[wanted.tolist().index(1)]) == 0
    assert [len(of_none) for of_none in matched(logits(2), boxes[:1], NOTHING)] == [0, 0]


def test_a_right_answer_costs_less_than_a_wrong_one() -> None:
    pairs = torch.tensor([0, 1]), torch.tensor([0, 1])
    boxes = centred(OBJECTS.boxes)
    right = paired_loss(logits(0, 2), boxes, OBJECTS, *pairs)
    assert right < 0.01
    assert paired_loss(logits(2, 0), boxes, OBJECTS, *pairs) > 1
    assert paired_loss(logits(0, 2), boxes + 0.1, OBJECTS, *pairs) > 1


def test_places_outside_an_object_learn_that_nothing_is_there() -> None:
    places = torch.tensor([[0.2, 0.2], [0.7, 0.6], [0.95, 0.05]])
    boxes = torch.cat([centred(OBJECTS.boxes), torch.tensor([[0.95, 0.05, 0.1, 0.1]])])
    right = dense_loss(logits(0, 2, None), boxes, places, OBJECTS)
    assert right < 0.01
    assert dense_loss(logits(0, 2, 1), boxes, places, OBJECTS) > right + 1
    assert dense_loss(logits(None, 2, None), boxes, places, OBJECTS) > right + 1
    assert dense_loss(logits(None, None, None), boxes, places, NOTHING) < 0.01
