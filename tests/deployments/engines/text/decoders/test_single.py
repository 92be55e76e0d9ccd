"""Rows that share no forward: each keeps the state that its model returned, wherever its row moves."""

from pathlib import Path

import pytest
import torch

from deployments.engines.text.decoders.model import CausalModel
from deployments.engines.text.decoders.single import SingleDecoder
from tests.support.text_models import save_model

LONG, SHORT = [5, 6, 7, 8], [9, 10]


@pytest.mark.parametrize("state", ["past_key_values", None])
@torch.inference_mode()
def test_rows_that_move_keep_their_state(state: str | None, tmp_path: Path) -> None:
    model = CausalModel.load(save_model(tmp_path, "llama"), "cpu", None).model
    decoder = SingleDecoder(model, state)
    decoder.prefill([LONG, SHORT])
    decoder.release(0)
    assert decoder.rows == 1
    logits = decoder.step([11]).logits
    expected = model(input_ids=torch.tensor([[*SHORT, 11]])).logits[:, -1]
    assert torch.allclose(logits, expected, atol=1e-4)
    decoder.clear()
    assert decoder.rows == 0
    decoder.close()
    assert decoder.rows == decoder.nbytes == 0


@pytest.mark.parametrize("state", ["past_key_values", None])
@torch.inference_mode()
def test_a_step_that_failed_is_repeated_as_if_it_had_not_been(
    state: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of rows whose memory ran out the longest fails, and the others' step is repeated."""
    model = CausalModel.load(save_model(tmp_path, "llama"), "cpu", None).model
    decoder = SingleDecoder(model, state)
    decoder.prefill([SHORT, LONG])
    forward = type(model).forward

    def fails_for_the_second(self: torch.nn.Module, *args: object, **inputs: object) -> object:
        output = forward(self, *args, **inputs)
        if len(computed) == 1:
            raise MemoryError
        computed.append(output)
        return output

    computed: list[object] = []
    monkeypatch.setattr(type(model), "forward", fails_for_the_second)
    with pytest.raises(MemoryError):
        decoder.step([11, 12])
    monkeypatch.undo()
    decoder.release(1)
    for text in ([*SHORT, 11], [*SHORT, 11, 13]):
        logits = decoder.step(text[-1:]).logits
        assert torch.allclose(logits, model(input_ids=torch.tensor([text])).logits[:, -1], atol=1e-4)
