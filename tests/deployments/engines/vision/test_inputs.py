"""Items of one shape make a batch; a model gets its arguments in its own dtype."""

from dataclasses import dataclass

import torch

from deployments.engines.vision.inputs import Inputs, arguments, batch_of


@dataclass
class HalfModel:
    device = torch.device("cpu")
    dtype = torch.float16


def test_pixel_values_are_stacked() -> None:
    items = [torch.full((3, 2, 2), float(n)) for n in range(3)]
    assert torch.equal(batch_of(items), torch.stack(items))
    assert batch_of(items[:1]).shape == (1, 3, 2, 2)


def test_other_inputs_are_stacked_by_name() -> None:
    items = [Inputs(ids=torch.tensor([n, n]), mask=torch.ones(3)) for n in range(2)]
    batch = batch_of(items)
    assert batch["ids"].tolist() == [[0, 0], [1, 1]]
    assert batch.shape == ((2, 2), (2, 3))


def test_floats_become_the_models_dtype_and_integers_stay() -> None:
    batch = Inputs(ids=torch.tensor([[1]]), mask=torch.ones(1, 1))
    given = arguments(batch, HalfModel())
    assert (given["ids"].dtype, given["mask"].dtype) == (torch.int64, torch.float16)
    assert arguments(torch.ones(1, 3, 2, 2), HalfModel())["pixel_values"].dtype == torch.float16
