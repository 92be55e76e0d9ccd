"""/v1/embeddings in one process, called with OpenAI's own client and as others call it."""

import base64
from collections.abc import AsyncGenerator
from typing import Any

import httpx2
import numpy as np
import openai
import pytest
from openai import AsyncOpenAI
from openai.types import embedding_create_params

from deployments.contract.errors import InvalidRequest, ModelNotFound, PromptTooLong
from deployments.contract.text_generation import Usage
from deployments.contract.types import InferRequest, TextEmbedding, TextEmbeddingResult
from deployments.replica.calls import Reply
from serve_app.http.openai.embeddings import EmbeddingBody
from serve_app.http.openai.fields import HINTS
from tests.support.http_runtimes import FakeRuntime, responding, status


async def script(request: InferRequest) -> AsyncGenerator[Reply, None]:
    """Each text's vector begins with its length."""
    assert isinstance(request, TextEmbedding)
    sizes = [len(one) for one in request.token_ids or request.texts]
    vectors = [[float(size), 0.1, -1e-07, float(np.float32(1 / 3))] for size in sizes]
    usage = Usage(prompt_tokens=sum(sizes), completion_tokens=0)
    yield TextEmbeddingResult(embeddings=vectors, model_id="m@1", usage=usage)


@pytest.fixture
def runtime() -> FakeRuntime:
    runtime = FakeRuntime(script)
    runtime.statuses = [status("e", "text_embedding", [1]), status("i", "image_classification")]
    return runtime


async def post(http: httpx2.AsyncClient, **body: Any) -> dict[str, Any]:
    reply = await http.post("/v1/embeddings", json={"model": "e", "input": "ab"} | body)
    assert reply.status_code == 200, reply.text
    read: dict[str, Any] = reply.json()
    return read


def asked(runtime: FakeRuntime) -> TextEmbedding:
    request = runtime.asked[-1]
    assert isinstance(request, TextEmbedding)
    return request


VECTOR = [2.0, 0.1, -1e-07, float(np.float32(1 / 3))]


async def test_the_client_gets_vectors_of_the_right_length_whatever_format_it_asks_for(
    client: AsyncOpenAI, runtime: FakeRuntime
) -> None:
    for options in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}):
        answer = await client.embeddings.create(model="e", input="ab", **options)  # type: ignore[arg-type]
        assert (answer.object, answer.model) == ("list", "e")
        (one,) = answer.data
        assert (one.object, one.index) == ("embedding", 0)
        vector: Any = one.embedding  # asked for in base64 by name, it stays so
        if isinstance(vector, str):
            vector = np.frombuffer(base64.b64decode(vector), "<f4").tolist()
        assert vector == pytest.approx(VECTOR, rel=1e-7)
        assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (2, 2)
    assert asked(runtime) == TextEmbedding(model_id="e", texts=["ab"])


async def test_base64_is_the_float32_of_the_numbers_little_endian(http: httpx2.AsyncClient) -> None:
    [numbers] = [one["embedding"] for one in (await post(http, encoding_format="float"))["data"]]
    [text] = [one["embedding"] for one in (await post(http, encoding_format="base64"))["data"]]
    raw = base64.b64decode(text, validate=True)
    assert len(raw) == 4 * len(numbers)
    assert np.frombuffer(raw, "<f4").tolist() == np.array(numbers, np.float32).tolist()


async def test_null_means_absent_and_without_a_format_there_are_numbers(
    http: httpx2.AsyncClient, runtime: FakeRuntime
) -> None:
    answer = await post(http, encoding_format=None, dimensions=None, user=None, truncate=None, input_type=None)
    assert answer["data"][0]["embedding"][0] == 2.0
    assert asked(runtime) == TextEmbedding(model_id="e", texts=["ab"])


@pytest.mark.parametrize(
    ("given", "texts", "token_ids"),
    [
        ("ab", ["ab"], None),
        (["ab", "", "ab"], ["ab", "", "ab"], None),
        ([5, 6, 7], [], [[5, 6, 7]]),
        ([[5, 6], [7]], [], [[5, 6], [7]]),
    ],
)
async def test_one_or_several_texts_or_their_token_ids(
    client: AsyncOpenAI, runtime: FakeRuntime, given: Any, texts: list[str], token_ids: Any
) -> None:
    answer = await client.embeddings.create(model="e", input=given)
    assert asked(runtime) == TextEmbedding(model_id="e", texts=texts, token_ids=token_ids)
    sizes = [len(one) for one in token_ids or texts]
    assert [one.index for one in answer.data] == list(range(len(sizes)))
    assert [one.embedding[0] for one in answer.data] == sizes
    assert answer.usage.prompt_tokens == sum(sizes)


async def test_the_options_reach_the_model(client: AsyncOpenAI, runtime: FakeRuntime) -> None:
    extras = {"input_type": "query", "normalize": True, "truncate": False, "truncate_prompt_tokens": -1}
    await client.embeddings.create(model="e", input="ab", dimensions=8, user="someone", extra_body=extras)
    assert asked(runtime) == TextEmbedding(
        model_id="e", texts=["ab"], dimensions=8, input_type="query", normalize=True, truncate=False
    )


async def test_as_many_texts_as_openai_takes_and_not_one_more(client: AsyncOpenAI) -> None:
    answer = await client.embeddings.create(model="e", input=["a" * (n % 7) for n in range(2048)])
    assert [one.embedding[0] for one in answer.data] == [n % 7 for n in range(2048)]
    with pytest.raises(openai.BadRequestError, match="input may have at most 2048 texts, not 2049"):
        await client.embeddings.create(model="e", input=["a"] * 2049)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"encoding_format": "md5"}, "encoding_format"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": -1}, "dimensions"),
        ({"dimensions": 1.5}, "dimensions"),
        ({"input": []}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": [[5], []]}, "input"),
        ({"input": [-1]}, "input"),
        ({"input": ["a", 1]}, "input"),
        ({"input": None}, "input"),
        ({"input": {"text": "a"}}, "input"),
        ({"inputs": "a"}, "inputs"),
        ({"prompt_name": "query"}, "prompt_name"),
        ({"truncate_prompt_tokens": 8}, "truncate_prompt_tokens"),
    ],
)
async def test_what_is_asked_wrongly_is_refused_by_its_name(
    http: httpx2.AsyncClient, body: dict[str, Any], param: str
) -> None:
    reply = await http.post("/v1/embeddings", json={"model": "e", "input": "ab"} | body)
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert error["param"] == param
    assert param in error["message"]


@pytest.mark.parametrize(
    ("failure", "raised", "code"),
    [
        (ModelNotFound("no model 'e'"), openai.NotFoundError, "model_not_found"),
        (PromptTooLong("too long"), openai.BadRequestError, "context_length_exceeded"),
        (InvalidRequest("dimensions 33 are more than 32"), openai.BadRequestError, "invalid_request"),
    ],
)
async def test_an_error_is_openais(
    client: AsyncOpenAI, runtime: FakeRuntime, failure: Exception, raised: Any, code: str
) -> None:
    runtime.script = responding(failure)
    with pytest.raises(raised) as caught:
        await client.embeddings.create(model="e", input="a")
    assert caught.value.code == code


async def test_embedding_models_are_listed(client: AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["e"]
    assert (await client.models.retrieve("e@1")).id == "e@1"


def test_each_field_of_openais_specification_is_used_or_ignored() -> None:
    fields = embedding_create_params.EmbeddingCreateParams.__annotations__
    assert fields.keys() <= EmbeddingBody.model_fields.keys() | HINTS
