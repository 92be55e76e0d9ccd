"""A converted Whisper: for each token it is known how far its logit from rounded weights may be off."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSpeechSeq2Seq

from tests.support.audio.models import whisper
from tests.support.audio.screened import logits_of_rounded_weights

pytestmark = [pytest.mark.compiles, pytest.mark.filterwarnings("ignore")]


def test_no_logit_from_rounded_weights_is_further_off_than_is_said_of_its_token(tmp_path: Path) -> None:
    weight = AutoModelForSpeechSeq2Seq.from_pretrained(whisper(tmp_path / "m", 1)).proj_out.weight.detach()
    hidden = torch.randn(8, weight.shape[1], generator=torch.Generator().manual_seed(0)) * 5
    screened, doubt = logits_of_rounded_weights(weight, hidden)
    off = (screened - hidden @ weight.T).abs() / hidden.norm(dim=1, keepdim=True)
    assert (off <= doubt).all()
    assert float(off.max()) > 1e-4  # there is something to doubt
