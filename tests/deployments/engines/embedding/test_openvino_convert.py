"""A converted encoder gives the vectors of transformers for texts of any number and length."""

from pathlib import Path

import pytest
import torch

from deployments.engines.embedding.encoder import EagerEncoder, load_encoder
from deployments.engines.embedding.openvino_convert import convert
from deployments.engines.embedding.openvino_encoder import OpenVinoEncoder
from tests.support.embedding.models import save_encoder

pytestmark = pytest.mark.compiles

SHAPES = ((1, 1), (1, 5), (3, 7), (4, 33), (2, 60), (9, 2))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("model_type", "names"),
    [("bert", ("input_ids", "attention_mask", "token_type_ids")), ("mpnet", ("input_ids", "attention_mask"))],
)
def test_it_is_converted_once_for_texts_of_any_number_and_length(
    tmp_path: Path, model_type: str, names: tuple[str, ...]
) -> None:
    convert(save_encoder(tmp_path, model_type), names, 60, tmp_path)
    converted, eager = OpenVinoEncoder(tmp_path, 2), EagerEncoder(load_encoder(tmp_path, "cpu", None))
    assert 0.5 * eager.resident_bytes < converted.resident_bytes < 2 * eager.resident_bytes
    for texts, tokens in SHAPES:
        mask = torch.ones(texts, tokens, dtype=torch.long)
        mask[-1, (tokens + 1) // 2 :] = 0
        ids = torch.randint(4, 20, mask.shape) * mask + (1 - mask)
        arguments = dict(zip(names, (ids, mask, torch.zeros_like(ids)), strict=False))
        with torch.inference_mode():
            expected = eager(arguments)
        computed = converted(arguments)
        torch.testing.assert_close(computed * mask[..., None], expected * mask[..., None], atol=1e-4, rtol=1e-4)
