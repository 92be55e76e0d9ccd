"""A decode step and prompts in one row give the logits of the plain forward."""

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from deployments.engines.probes import ProbeCache
from deployments.engines.text.compiled.modules import PromptModule, StepModule
from deployments.engines.text.model import CausalModel

FIRST, SECOND = [5, 6, 7, 8], [9, 10]


@pytest.fixture
def model(folder: Path) -> PreTrainedModel:
    return CausalModel.load(folder, "cpu", None, ProbeCache(None)).model


@torch.inference_mode()
def test_prompts_in_one_row_attend_to_themselves_only(model: PreTrainedModel) -> None:
    none = torch.zeros(0, dtype=torch.long)
    tokens = torch.tensor([*FIRST, *SECOND])
    logits, *columns = PromptModule(model)(
        tokens,
        torch.tensor([0, 1, 2, 3, 0, 1]),
        torch.tensor([0] * 4 + [1] * 2),
        torch.tensor([3, 5]),
        none,
        none,
        [],
        [],
    )
    expected = [model.forward(input_ids=torch.tensor([ids])).logits[0, -1] for ids in (FIRST, SECOND)]
    assert torch.allclose(logits, torch.stack(expected), atol=1e-4)
    assert {column.shape[1] for column in columns} == {6}


@torch.inference_mode()
def test_a_step_continues_rows_of_unlike_length(model: PreTrainedModel) -> None:
    none = torch.zeros(0, dtype=torch.long)
    _, *columns = PromptModule(model)(
        torch.tensor([*FIRST, *SECOND]),
        torch.tensor([0, 1, 2, 3, 0, 1]),
        torch.tensor([0] * 4 + [1] * 2),
        torch.tensor([3, 5]),
        none,
        none,
        [],
        [],
    )
    caches = []
    for column in columns:
        cache = torch.zeros(2, column.shape[0], 64, column.shape[2])
        cache[0, :, :4], cache[1, :, :2] = column[:, :4], column[:, 4:]
        caches.append(cache)
    keys, values = caches[: len(caches) // 2], caches[len(caches) // 2 :]
    logits, best, finite = StepModule(model)(torch.tensor([11, 12]), torch.tensor([4, 2]), keys, values)
    expected = [model.forward(input_ids=torch.tensor([ids])).logits[0, -1] for ids in ([*FIRST, 11], [*SECOND, 12])]
    assert torch.allclose(logits, torch.stack(expected), atol=1e-4)
    assert best.tolist() == logits.argmax(-1).tolist()
    assert finite.all()
