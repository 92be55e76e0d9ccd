"""The engine gives the vectors that sentence-transformers gives for the same folder."""

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from deployments.contract.errors import Internal, InvalidRequest, ModelLoadFailed
from deployments.contract.types import TextEmbedding
from deployments.engines.embedding.encoder import load_encoder
from deployments.engines.embedding.engine import TextEmbeddingEngine
from deployments.engines.embedding.folder import MODES
from tests.support.embedding.models import (
    NORMALIZE,
    TEXTS,
    dense,
    mean_by_transformers,
    minilm,
    pooling,
    reference,
    save_encoder,
    save_modules,
)

TWO = ["the quick brown fox", "where is the station of some more words"]
LONG = "a text of some more words " * 7  # 42 words


def answer(engine: TextEmbeddingEngine, texts: list[str] | None = None, **options: Any) -> np.ndarray:
    """As the replica answers: all texts in one forward."""
    request = TextEmbedding(model_id="m", texts=[] if texts is None else texts, **options)
    vectors = engine.embed(engine.encode(request))
    assert all(isinstance(vector, np.ndarray) for vector in vectors), vectors
    return engine.finished(np.stack(vectors), request.dimensions, request.normalize)  # type: ignore[arg-type]


def folder(place: Path, *modules: Any, **options: Any) -> Path:
    return save_modules(save_encoder(place), *(modules or (pooling("mean"),)), **options)


def assert_same(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("modes", [*((mode,) for mode in MODES.values()), ("cls", "mean")], ids="+".join)
def test_the_pooling_is_that_of_the_folder(tmp_path: Path, modes: tuple[str, ...]) -> None:
    theirs = reference(folder(tmp_path, pooling(*modes)), TWO)
    assert_same(answer(TextEmbeddingEngine.load(tmp_path), TWO), theirs)
    assert theirs.shape == (2, 16 * len(modes))


def test_the_pooling_may_be_one_string_as_sentence_transformers_6_writes_it(tmp_path: Path) -> None:
    folder(tmp_path, ("Pooling", {"embedding_dimension": 16, "pooling_mode": "cls", "include_prompt": True}))
    assert_same(answer(TextEmbeddingEngine.load(tmp_path), TWO), reference(tmp_path, TWO))


def test_every_module_of_modules_json_is_computed(tmp_path: Path) -> None:
    identity = dense(24, 8, "torch.nn.modules.linear.Identity", bias=False)
    folder(tmp_path, pooling("mean"), dense(16, 24), ("Dropout", {"dropout": 0.1}), identity, NORMALIZE)
    ours = answer(TextEmbeddingEngine.load(tmp_path), TWO)
    assert ours.shape == (2, 8)
    assert_same(ours, reference(tmp_path, TWO))
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-6)


def test_texts_end_where_the_folder_says_and_not_where_tokenizer_and_positions_end(tmp_path: Path) -> None:
    folder(tmp_path, text={"max_seq_length": 16, "do_lower_case": False})
    engine = TextEmbeddingEngine.load(tmp_path)
    [text] = engine.encode(TextEmbedding(model_id="m", texts=[LONG]))
    assert len(text.ids) == 16  # with the special tokens, as usage counts them
    assert_same(answer(engine, [LONG]), reference(tmp_path, [LONG]))
    assert_same(answer(engine, [LONG]), answer(engine, [" ".join(LONG.split()[:14])]))


def test_a_folder_that_sentence_transformers_6_wrote_is_read(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    encoder = modules.Transformer(str(save_encoder(tmp_path / "encoder")), max_seq_length=16)
    pooled = modules.Pooling(16, ("cls", "weightedmean"))
    layers = [encoder, pooled, modules.Dense(32, 8), modules.Normalize()]
    SentenceTransformer(modules=layers, device="cpu", prompts={"query": "query: "}).save(str(tmp_path / "saved"))
    engine = TextEmbeddingEngine.load(tmp_path / "saved")
    assert engine.tokenizer.max_tokens == 16
    assert_same(answer(engine, [*TWO, LONG]), reference(tmp_path / "saved", [*TWO, LONG]))
    known = reference(tmp_path / "saved", TWO, prompt_name="query")
    assert_same(answer(engine, TWO, input_type="query"), known)


def test_a_plain_encoder_is_the_mean_of_its_tokens(tmp_path: Path) -> None:
    ours = answer(TextEmbeddingEngine.load(save_encoder(tmp_path)), TEXTS)
    assert_same(ours, mean_by_transformers(tmp_path, TEXTS))
    assert_same(ours, reference(tmp_path, TEXTS))


PROMPTS = {"query": "query: ", "document": "passage: "}


@pytest.mark.parametrize("default", [None, "document"])
@pytest.mark.parametrize("include", [True, False])
def test_prompts_are_put_before_texts_once_as_the_folder_and_the_request_say(
    tmp_path: Path, default: str | None, include: bool
) -> None:
    settings = {"prompts": PROMPTS, "default_prompt_name": default}
    folder(tmp_path, pooling("mean", include_prompt=include), settings=settings)
    engine = TextEmbeddingEngine.load(tmp_path)
    assert_same(answer(engine, TWO), reference(tmp_path, TWO))
    for name in PROMPTS:
        assert_same(answer(engine, TWO, input_type=name), reference(tmp_path, TWO, prompt_name=name))
    asked = TextEmbedding(model_id="m", texts=TWO, input_type="query")
    assert [len(text.ids) for text in engine.encode(asked)] == [8, 12]  # the prompt's tokens count
    with pytest.raises(InvalidRequest, match="'passage' .* it has 'document', 'query'"):
        answer(engine, TWO, input_type="passage")


def test_a_folder_without_prompts_has_two_empty_ones(tmp_path: Path) -> None:
    folder(tmp_path, settings={"prompts": {"passage": "passage: "}})
    engine = TextEmbeddingEngine.load(tmp_path)
    assert_same(answer(engine, TWO, input_type="document"), answer(engine, TWO))
    assert_same(answer(engine, TWO, input_type="passage"), reference(tmp_path, TWO, prompt_name="passage"))


def test_vectors_are_cut_before_they_are_normalised(tmp_path: Path) -> None:
    folder(tmp_path, pooling("mean"), dense(16, 32), NORMALIZE)
    engine = TextEmbeddingEngine.load(tmp_path)
    cut = answer(engine, TWO, dimensions=8)
    np.testing.assert_allclose(np.linalg.norm(cut, axis=1), 1, atol=1e-6)
    assert_same(cut, reference(tmp_path, TWO, truncate_dim=8, normalize_embeddings=True))
    assert_same(answer(engine, TWO, dimensions=8, normalize=False), reference(tmp_path, TWO, truncate_dim=8))
    np.testing.assert_array_equal(answer(engine, TWO, dimensions=32), answer(engine, TWO))
    with pytest.raises(InvalidRequest, match="dimensions 33 are more than the model's 32"):
        answer(engine, TWO, dimensions=33)


def test_the_folders_own_size_holds_where_the_request_names_none(tmp_path: Path) -> None:
    folder(tmp_path, settings={"truncate_dim": 4})
    engine = TextEmbeddingEngine.load(tmp_path)
    assert_same(answer(engine, TWO), reference(tmp_path, TWO))
    assert answer(engine, TWO).shape == (2, 4)
    assert answer(engine, TWO, dimensions=12).shape == (2, 12)


def test_vectors_have_length_1_where_the_folder_or_the_request_says_so(tmp_path: Path) -> None:
    engine = TextEmbeddingEngine.load(folder(tmp_path / "without"))
    assert np.linalg.norm(answer(engine, TWO), axis=1).min() > 1.1
    assert_same(answer(engine, TWO, normalize=True), reference(tmp_path / "without", TWO, normalize_embeddings=True))
    always = TextEmbeddingEngine.load(folder(tmp_path / "with", pooling("mean"), NORMALIZE))
    np.testing.assert_allclose(np.linalg.norm(answer(always, TWO, normalize=False), axis=1), 1, atol=1e-6)


def test_empty_texts_are_finite_and_as_the_library_gives_them(tmp_path: Path) -> None:
    folder(tmp_path)
    assert_same(answer(TextEmbeddingEngine.load(tmp_path), ["a", "", "  "]), reference(tmp_path, ["a", "", "  "]))


def test_token_ids_are_exactly_what_the_model_is_run_on(tmp_path: Path) -> None:
    engine = TextEmbeddingEngine.load(folder(tmp_path, settings={"prompts": PROMPTS, "default_prompt_name": "query"}))
    ids = [[5, 6, 7], [6], [7, 5]]
    with torch.inference_mode():
        model = load_encoder(tmp_path, "cpu", None)
        known = [model(input_ids=torch.tensor([one])).last_hidden_state[0].mean(0).numpy() for one in ids]
    assert_same(answer(engine, token_ids=ids), np.stack(known))
    with pytest.raises(InvalidRequest, match="the token id 999"):
        answer(engine, token_ids=[[999]])


def test_numbers_that_are_not_finite_are_an_error_of_their_text_alone(tmp_path: Path) -> None:
    weights = load_file(folder(tmp_path) / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][8] = torch.nan  # "fox"
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    engine = TextEmbeddingEngine.load(tmp_path)
    fine, bad = engine.embed(engine.encode(TextEmbedding(model_id="m", texts=["the dog", "the fox"])))
    assert isinstance(fine, np.ndarray)
    assert isinstance(bad, Internal)
    assert "finite" in bad.message


def test_a_text_for_which_the_model_fails_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TextEmbeddingEngine.load(folder(tmp_path))
    compute = engine.vectors

    def fails_for_a_fox(texts: Any) -> Any:
        if any(8 in text.ids for text in texts):
            raise RuntimeError("secret")
        return compute(texts)

    monkeypatch.setattr(engine, "vectors", fails_for_a_fox)
    answers = engine.embed(engine.encode(TextEmbedding(model_id="m", texts=["a", "the fox", "dog"])))
    assert [isinstance(one, np.ndarray) for one in answers] == [True, False, True]
    assert isinstance(answers[1], Internal)
    assert "secret" not in answers[1].message


def test_texts_that_do_not_fit_into_memory_together_are_computed_apart_and_later_ones_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = TextEmbeddingEngine.load(folder(tmp_path))
    compute = engine.vectors

    def little_memory(texts: Any) -> Any:
        if max(len(text.ids) for text in texts) * len(texts) > 16:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return compute(texts)

    monkeypatch.setattr(engine, "vectors", little_memory)
    texts = engine.encode(TextEmbedding(model_id="m", texts=["the fox"] * 8))
    assert all(isinstance(one, np.ndarray) for one in engine.embed(texts))
    chosen = engine.next_batch(texts, 8)
    assert len(texts[0].ids) * len(chosen) <= 16


def test_halves_are_computed_as_halves_and_normalised_in_float32(tmp_path: Path) -> None:
    folder(tmp_path, pooling("mean"), NORMALIZE)
    engine = TextEmbeddingEngine.load(tmp_path)
    half = TextEmbeddingEngine.load(tmp_path, dtype="bfloat16")
    assert half.resident_bytes < 0.6 * engine.resident_bytes
    np.testing.assert_allclose(answer(half, TWO), answer(engine, TWO), atol=0.05)
    np.testing.assert_allclose(np.linalg.norm(answer(half, TWO), axis=1), 1, atol=1e-6)
    with pytest.raises(ModelLoadFailed, match="dtype"):
        TextEmbeddingEngine.load(tmp_path, dtype="nonsense")


def test_how_it_runs_is_said_and_closing_frees_the_model(tmp_path: Path) -> None:
    engine = TextEmbeddingEngine.load(folder(tmp_path, pooling("mean"), NORMALIZE), cores=1)
    assert engine.runtime_info == (
        "vectors: 16 values, pooled by mean, Normalize",
        "longest text: 64 tokens",
        "forward: PyTorch, eager, at most 4096 tokens, on 1 thread",
    )
    [text] = engine.encode(TextEmbedding(model_id="m", texts=["a"]))
    model = weakref.ref(engine._encoder)
    engine.close()
    assert engine.resident_bytes == 0
    assert not engine.runtime_info
    assert model() is None
    assert isinstance(engine.embed([text])[0], Internal)


def another_kind(place: Path) -> None:
    (place / "config.json").write_text('{"model_type": "gpt-of-tomorrow"}')


def no_tokenizer(place: Path) -> None:
    (place / "tokenizer.json").unlink()


def another_width(place: Path) -> None:
    save_modules(place, pooling("mean"), dense(15, 8))


@pytest.mark.parametrize(
    ("fault", "reason"),
    [(another_kind, "no models of type"), (no_tokenizer, "tokenizer"), (another_width, "cannot be read")],
)
def test_a_broken_folder_fails_to_load_with_one_line_and_no_path(
    tmp_path: Path, fault: Callable[[Path], None], reason: str
) -> None:
    fault(save_encoder(tmp_path / "secret"))
    with pytest.raises(ModelLoadFailed, match=reason) as failed:
        TextEmbeddingEngine.load(tmp_path / "secret")
    assert "\n" not in failed.value.message
    assert "secret" not in failed.value.message


@pytest.mark.slow
def test_all_minilm_is_what_sentence_transformers_makes_of_it() -> None:
    engine = TextEmbeddingEngine.load(minilm())
    assert (engine.tokenizer.max_tokens, engine.dimensions) == (256, 384)
    texts = [
        "Where is the next railway station?",
        "A station for trains is just around the corner.",
        "The cat sleeps on the sofa.",
        "",
        "Grüße aus Köln, 東京 🎉 " * 9,
        "word " * 400,
    ]
    known = reference(minilm(), texts)
    ours = answer(engine, texts)
    assert_same(ours, known)
    assert_same(np.concatenate([answer(engine, [text]) for text in texts]), known)
    near, far = ours[0] @ ours[1], ours[0] @ ours[2]
    assert near > 0.5 > 0.2 > far
