"""Encoders of every type give the vectors that transformers gives, alone and beside others."""

from pathlib import Path

import numpy as np
import pytest

from deployments.contract.errors import ModelLoadFailed
from deployments.contract.types import TextEmbedding
from deployments.engines.embedding.batching import EncodedText
from deployments.engines.embedding.encoder import load_encoder, padded, positions_of
from deployments.engines.embedding.engine import TextEmbeddingEngine
from tests.support import sweep
from tests.support.embedding.models import APART, ARCHITECTURES, TEXTS, mean_by_transformers, save_encoder


def vectors(engine: TextEmbeddingEngine, texts: list[EncodedText]) -> np.ndarray:
    answers = engine.embed(texts)
    return np.stack([answer for answer in answers if isinstance(answer, np.ndarray)])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", sweep(ARCHITECTURES, "bert", "fnet", "qwen3", "t5"))
def test_vectors_are_those_of_transformers_alone_and_in_a_batch(tmp_path: Path, model_type: str) -> None:
    engine = TextEmbeddingEngine.load(save_encoder(tmp_path, model_type))
    texts = engine.encode(TextEmbedding(model_id="m", texts=TEXTS))
    known = mean_by_transformers(tmp_path, TEXTS)
    alone = np.concatenate([vectors(engine, [text]) for text in texts])
    np.testing.assert_allclose(alone, known, atol=1e-5, rtol=1e-5)
    batches, left = [], list(range(len(texts)))
    while left:
        chosen = [left[index] for index in engine.next_batch([texts[index] for index in left], 99)]
        batches.append(len(chosen))
        shared = vectors(engine, [texts[index] for index in chosen])
        np.testing.assert_allclose(shared, known[chosen], atol=1e-5, rtol=1e-5)
        left = [index for index in left if index not in chosen]
    assert max(batches) >= 2
    if model_type not in APART:
        np.testing.assert_allclose(vectors(engine, texts), known, atol=1e-5, rtol=1e-5)
    else:
        assert np.abs(vectors(engine, texts) - known).max() > 1e-2  # padding changes them: they are not put together
        assert "texts of one length only" in engine.runtime_info[-1]


def test_padding_is_behind_and_told_to_the_encoder() -> None:
    batch = padded([EncodedText([5, 6, 7], [0, 0, 1]), EncodedText([8], [0])], pad_id=9, pad_type_id=3)
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [[5, 6, 7], [8, 9, 9]],
        "attention_mask": [[1, 1, 1], [1, 0, 0]],
        "token_type_ids": [[0, 0, 1], [0, 3, 3]],
    }


@pytest.mark.parametrize(("model_type", "positions"), [("bert", 64), ("mpnet", 62), ("qwen3", 64), ("t5", None)])
def test_the_longest_text_has_a_position_for_each_token(tmp_path: Path, model_type: str, positions: int | None) -> None:
    assert positions_of(load_encoder(save_encoder(tmp_path, model_type), "cpu", None)) == positions


def test_a_text_as_long_as_the_positions_of_an_encoder_that_counts_behind_its_padding_is_computed(
    tmp_path: Path,
) -> None:
    """XLM-R's table of 66 rows begins at 2: a text of 65 tokens would fail."""
    engine = TextEmbeddingEngine.load(save_encoder(tmp_path, "xlm-roberta", pad_token_id=1, max_position_embeddings=66))
    assert engine.tokenizer.max_tokens == 64
    [text] = engine.encode(TextEmbedding(model_id="m", texts=["a " * 99]))
    assert vectors(engine, [text]).shape == (1, 16)


def test_a_pooler_that_the_weights_lack_is_not_missed_and_other_tensors_are(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(save_encoder(tmp_path) / "model.safetensors")
    without = {name: tensor for name, tensor in weights.items() if "pooler" not in name}
    assert without.keys() < weights.keys()
    save_file(without, tmp_path / "model.safetensors", {"format": "pt"})
    load_encoder(tmp_path, "cpu", None)
    del without["embeddings.LayerNorm.bias"]
    save_file(without, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelLoadFailed, match=r"1 tensors are missing \(embeddings\.LayerNorm\.bias"):
        load_encoder(tmp_path, "cpu", None)


def test_a_model_that_gives_no_vectors_of_tokens_is_refused_by_its_type(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bart"}')
    with pytest.raises(ModelLoadFailed, match="'bart'"):
        load_encoder(tmp_path, "cpu", None)
