"""torch's network of Whisper sees the same in tokens that come together and in tokens that come one by one."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSpeechSeq2Seq

from deployments.engines.audio.greedy import Clip
from deployments.engines.audio.torch_decoder import TorchDecoder
from tests.support.audio.models import whisper


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return AutoModelForSpeechSeq2Seq.from_pretrained(whisper(tmp_path_factory.mktemp("torch") / "m", 1)).eval()


@torch.inference_mode()
def test_tokens_together_are_seen_as_one_by_one(model: Any) -> None:
    network = TorchDecoder(model, 1)
    features = torch.randn(80, 100, generator=torch.Generator().manual_seed(0))
    together, one_by_one = Clip(features, []), Clip(features, [])
    network.encode(together)
    network.encode(one_by_one)
    tokens = [3, 1, 4, 1, 5]
    for token in tokens:
        last = network.forward([one_by_one], [[token]])
        one_by_one.length += 1
    np.testing.assert_allclose(network.forward([together], [tokens]), last, atol=1e-5)
    known = model(input_features=features[None], decoder_input_ids=torch.tensor([tokens])).logits[0, -1]
    np.testing.assert_allclose(network.logits(last)[0], known, atol=1e-4)


def test_the_best_token_is_the_best_of_those_that_are_not_suppressed(model: Any) -> None:
    network = TorchDecoder(model, 1)
    vector = model.proj_out.weight[None, 70].detach() * 9
    bias = torch.zeros(len(model.proj_out.weight))
    [best] = network.best(vector, bias)
    bias[best] = -torch.inf
    assert network.best(vector, bias) != [best]
