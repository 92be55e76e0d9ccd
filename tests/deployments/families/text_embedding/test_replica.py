"""The TextEmbedding replica without Ray: texts of many requests at a time, each with its own answer."""

import asyncio
import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from deployments.contract.types import Error, InferResponse, TextEmbedding, TextEmbeddingResult
from deployments.engines.embedding import engine
from deployments.engines.embedding.batching import MOST_WASTED, EncodedText
from deployments.engines.embedding.engine import TextEmbeddingEngine
from deployments.families.text_embedding.family import TEXT_EMBEDDING, TextEmbeddingOptions
from deployments.families.text_embedding.replica import TextEmbeddingReplica
from deployments.replica.calls import Call
from deployments.replica.family import model_formats
from deployments.replica.model_replica import ReplicaOptions
from deployments.replica.replica import Replica
from deployments.repository.model import find
from tests.support import sweep
from tests.support.embedding.models import NORMALIZE, WORDS, pooling, reference, save_encoder, save_modules


@pytest.fixture(autouse=True)
def nothing_is_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    """As tests/deployments/engines/embedding/test_compilation.py shows it."""
    monkeypatch.setattr(engine, "convert_in_background", lambda *given: None)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    save_modules(save_encoder(root / "m", max_position_embeddings=256), pooling("mean"), NORMALIZE)
    return root


def replica(models: Path, **settings: object) -> TextEmbeddingReplica:
    options = TextEmbeddingOptions.model_validate(settings)
    return TextEmbeddingReplica(ReplicaOptions(TEXT_EMBEDDING, models, model_formats([TEXT_EMBEDDING]), options))


async def answers(to: TextEmbeddingReplica, requests: Sequence[TextEmbedding]) -> list[InferResponse]:
    model = find(to.options.repository().models(), "m", "text_embedding")
    calls = [Call(request, f"request-{n}", 60, model, call_id=str(n)) for n, request in enumerate(requests)]
    replies = {n: reply async for said in Replica.exchange(to, calls) for n, reply in said}
    return [replies[n] for n in range(len(requests))]  # type: ignore[misc]


def asking(*texts: str, **options: object) -> TextEmbedding:
    return TextEmbedding.model_validate({"model_id": "m", "texts": list(texts), **options})


def some_texts(count: int, longest: int, seed: int = 0) -> list[str]:
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=chance.randint(1, longest))) for _ in range(count)]


class Watched:
    """Notes the lengths of the texts of each forward."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.forwards: list[list[int]] = []
        embed = TextEmbeddingEngine.embed

        def noted(engine: TextEmbeddingEngine, texts: Sequence[EncodedText]) -> object:
            self.forwards.append([len(text.ids) for text in texts])
            return embed(engine, texts)

        monkeypatch.setattr(TextEmbeddingEngine, "embed", noted)


async def test_texts_of_many_requests_share_forwards_and_each_answer_is_its_own(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched, texts = Watched(monkeypatch), some_texts(160, 200)
    requests = [asking(*texts[at : at + 4]) for at in range(0, 160, 4)]
    got = await answers(replica(models), requests)
    known = reference(models / "m", texts)
    for at, answer in enumerate(got):
        assert isinstance(answer, TextEmbeddingResult)
        np.testing.assert_allclose(answer.embeddings, known[4 * at : 4 * at + 4], atol=1e-5, rtol=1e-5)
        assert answer.model_id == "m"
        assert answer.usage
        assert answer.tokens == sum(len(text.split()) + 2 for text in requests[at].texts)
    computed = sum(max(lengths) * len(lengths) for lengths in watched.forwards)
    assert sum(map(sum, watched.forwards)) >= (1 - MOST_WASTED) * computed
    assert len(watched.forwards) < len(requests)


@pytest.mark.parametrize("count", sweep([1, 33, 2048], 33))
async def test_as_many_texts_as_openai_takes_are_answered_in_order(
    models: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    watched, texts = Watched(monkeypatch), some_texts(count, 9, seed=1)
    [answer] = await answers(replica(models), [asking(*texts)])
    assert isinstance(answer, TextEmbeddingResult)
    distinct = list(dict.fromkeys(texts))[:50]
    known = dict(zip(distinct, reference(models / "m", distinct), strict=True))
    assert len(answer.embeddings) == count
    for text, vector in zip(texts, answer.embeddings, strict=True):
        if text in known:
            np.testing.assert_allclose(vector, known[text], atol=1e-5, rtol=1e-5)
    assert all(max(lengths) * len(lengths) <= 4096 and len(lengths) <= 256 for lengths in watched.forwards)


async def test_a_single_text_is_served_while_thousands_wait(models: Path) -> None:
    embedder = replica(models, max_batch_size=8)
    model = find(embedder.options.repository().models(), "m", "text_embedding")
    many, one = (
        asyncio.create_task(embedder.infer(Call(request, "r", 60, model, call_id=name)))
        for name, request in (("many", asking(*some_texts(2000, 30))), ("one", asking("the fox")))
    )
    assert isinstance(await one, TextEmbeddingResult)
    assert not many.done()
    many.cancel()
    with pytest.raises(asyncio.CancelledError):
        await many


async def test_a_text_of_which_the_model_makes_no_numbers_fails_its_request_alone(tmp_path: Path) -> None:
    weights = load_file(save_encoder(tmp_path / "m") / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][8] = float("nan")  # "fox"
    save_file(weights, tmp_path / "m" / "model.safetensors", {"format": "pt"})
    fine, bad, fine_too = await answers(replica(tmp_path), [asking("the dog"), asking("a", "the fox"), asking("a")])
    assert isinstance(bad, Error)
    assert bad.code == "internal"
    assert isinstance(fine, TextEmbeddingResult)
    assert isinstance(fine_too, TextEmbeddingResult)


async def test_what_a_request_asks_wrongly_is_its_own_error(models: Path) -> None:
    got = await answers(
        replica(models),
        [
            asking("a", dimensions=17),
            asking("a", input_type="passage"),
            asking(token_ids=[[5], [999]]),
            asking("a " * 300, truncate=False),
            asking("a", dimensions=16),
        ],
    )
    codes = [answer.code if isinstance(answer, Error) else None for answer in got]
    assert codes == ["invalid_request", "invalid_request", "invalid_request", "prompt_too_long", None]


async def test_what_forwards_use_is_their_models(models: Path) -> None:
    asked = replica(models)
    await answers(asked, [asking(*some_texts(64, 200))])
    assert asked.cpu.sample()["m"] > 0


@pytest.mark.parametrize(("shift", "code"), [(0.0, None), (0.1, "model_load_failed")])
async def test_a_model_must_give_its_golden_vector_before_it_answers(
    tmp_path: Path, shift: float, code: str | None
) -> None:
    save_encoder(tmp_path / "m")
    first, second = reference(tmp_path / "m", ["the fox"])[0][:2].tolist()
    example = {"text": "the fox", "embedding": [first, second + shift]}
    (tmp_path / "m" / "model.yaml").write_text(json.dumps({"golden": [example]}))
    [answer] = await answers(replica(tmp_path), [asking("a")])
    if code is None:
        assert isinstance(answer, TextEmbeddingResult)
    else:
        assert isinstance(answer, Error)
        assert answer.code == code
        assert "golden" in answer.message
