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
