"""Models are built one at a time; a model without the mapping of its file keeps its values."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from deployments.engines.loading import build_in_turn, placed
from tests.support.text_models import save_model

PATIENCE_S = 60.0


def test_two_threads_build_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    building, most = 0, 0
    both = threading.Barrier(2)

    def slow(cls: type, *_: Any, **__: Any) -> str:
        nonlocal building, most
        building += 1
        most = max(most, building)
        threading.Event().wait(0.05)  # so that the other thread would come in between
        building -= 1
        return cls.__name__

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(slow))
    build_in_turn()
    build_in_turn()
    built: list[object] = []

    def build() -> None:
        both.wait(PATIENCE_S)
        built.append(PreTrainedModel.from_pretrained("folder"))

    threads = [threading.Thread(target=build) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert built == ["PreTrainedModel"] * 2
    assert most == 1


def test_a_model_that_has_left_its_file_has_the_same_weights_elsewhere(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "llama")
    model = AutoModelForCausalLM.from_pretrained(folder)
    before = {name: (tensor.clone(), tensor.data_ptr()) for name, tensor in model.named_parameters()}
    for name, tensor in placed(model, folder, "cpu").named_parameters():
        value, place = before[name]
        assert torch.equal(tensor, value)
        assert tensor.data_ptr() != place
