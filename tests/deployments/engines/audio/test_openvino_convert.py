"""A converted Whisper: for each token it is known how far its logit from rounded weights may be off."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSpeechSeq2Seq

from deployments.engines.audio.openvino_convert import DOUBT, SCREEN, convert
from deployments.engines.openvino_model import OpenVinoModel
from tests.support.audio.models import whisper

pytestmark = [pytest.mark.compiles, pytest.mark.filterwarnings("ignore")]


def test_no_logit_from_rounded_weights_is_further_off_than_is_said_of_its_token(tmp_path: Path) -> None:
    folder, place = whisper(tmp_path / "m", 1), tmp_path / "converted"
    place.mkdir()
    convert(folder, place)
    weight = AutoModelForSpeechSeq2Seq.from_pretrained(folder).proj_out.weight.detach()
    hidden = torch.randn(8, weight.shape[1], generator=torch.Generator().manual_seed(0)) * 5
    (screened,) = OpenVinoModel(place / SCREEN, 1)([hidden])
    off = (screened - hidden @ weight.T).abs() / hidden.norm(dim=1, keepdim=True)
    doubt = torch.from_numpy(np.load(place / DOUBT))
    assert (off <= doubt).all()
    assert float(off.max()) > 1e-4  # there is something to doubt
