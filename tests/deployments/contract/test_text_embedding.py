"""What a request for embeddings may say, in JSON."""

import json

import pytest

from deployments.contract import wire
from deployments.contract.errors import InvalidRequest
from deployments.contract.text_generation import Usage
from deployments.contract.types import InferRequest, TextEmbedding, TextEmbeddingResult


def embedding(field: str) -> TextEmbedding:
    body = f'{{"TextEmbedding":{{"model_id":"m",{field}}}}}'.encode()
    request = wire.decode(body, wire.JSON, InferRequest)
    assert isinstance(request, TextEmbedding)
    return request


@pytest.mark.parametrize(
    ("field", "where"),
    [
        ('"texts":"a"', "texts"),
        ('"texts":["a",null]', r"texts\.1"),
        ('"texts":["a"],"dimensions":0', "dimensions"),
        ('"texts":["a"],"dimensions":-1', "dimensions"),
        ('"texts":[],"token_ids":[[]]', r"token_ids\.0"),
        ('"texts":[],"token_ids":[[-1]]', r"token_ids\.0\.0"),
        ('"texts":["a"],"token_ids":[[1]]', "only one of texts and token_ids"),
        (f'"texts":{json.dumps(["a"] * 2049)}', "texts: List should have at most 2048 items"),
    ],
)
def test_texts_to_embed_are_a_list_of_at_most_2048(field: str, where: str) -> None:
    with pytest.raises(InvalidRequest, match=where):
        embedding(field)


def test_null_in_an_optional_field_of_an_embedding_means_absent() -> None:
    fields = ("token_ids", "dimensions", "normalize", "input_type", "truncate")
    assert embedding('"texts":["a"],' + ",".join(f'"{name}":null' for name in fields)) == embedding('"texts":["a"]')
    assert embedding('"texts":[],"token_ids":[[5,6],[7]]').token_ids == [[5, 6], [7]]


def test_of_texts_to_embed_each_is_a_prompt_of_its_own_and_a_results_tokens_are_those_it_read() -> None:
    assert embedding('"texts":["a","long","bc"]').prompt_texts == ["long"]
    assert embedding('"texts":["long","東京"]').prompt_texts == ["東京"]  # in bytes
    assert list(embedding('"texts":[]').prompt_texts) == []
    usage = Usage(prompt_tokens=7, completion_tokens=0)
    assert TextEmbeddingResult(embeddings=[], usage=usage).tokens == 7
    assert TextEmbeddingResult(embeddings=[]).tokens == 0
