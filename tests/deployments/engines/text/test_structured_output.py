"""A JSON schema constrains the text of a model that knows no JSON; a hostile schema ends in time."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # its stubs are a package of their own
import pytest
import torch

from deployments.contract.chat import Message
from deployments.contract.errors import InvalidRequest
from deployments.contract.types import SamplingOptions
from deployments.engines.text.engine import TextGenerationEngine
from deployments.engines.text.structured_output import Grammar, ReasoningFirst
from tests.support.text_models import (
    LOADERS,
    PROMPTS,
    Listener,
    Reference,
    ask,
    load,
    save_chat_model,
    save_long_model,
)

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"enum": ["big", "small"]},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    },
    "required": ["name", "age", "kind", "tags"],
    "additionalProperties": False,
}
DEEP: dict[str, Any] = {}
for _ in range(3000):
    DEEP = {"properties": {"a": DEEP}}
CHOICES = [{"properties": {name: {"type": "string"}}} for name in "abcdefgh"]
REFUSED: dict[str, dict[str, Any]] = {
    "unknown type": {"type": "poem"},
    "a pattern that is none": {"type": "string", "pattern": "(?=a)("},
    "options of the library": {"type": "string", "x-guidance": {"whitespace_flexible": True}},
    "no end": {"$ref": "#"},
    "deep": DEEP,
    "large": {"enum": ["a" * 100 + str(number) for number in range(5000)]},
    "many choices": {"allOf": [{"anyOf": CHOICES}] * 12},
}
HEAVY: dict[str, dict[str, Any]] = {
    "nested repetition": {"type": "string", "pattern": "^(((a{1,500}){1,500}){1,500})*b$"},
    "a long text": {"type": "string", "minLength": 10**6, "maxLength": 10**7},
    "many items": {"type": "array", "items": {"type": "integer"}, "minItems": 10**6},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_long_model(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module", params=LOADERS)
def engine(request: pytest.FixtureRequest, folder: Path) -> Iterator[TextGenerationEngine]:
    engine: TextGenerationEngine = request.param(folder)
    yield engine
    engine.close()


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_a_text_is_what_its_schema_allows(engine: TextGenerationEngine, seed: int | None) -> None:
    """Checked by the jsonschema package, greedy and drawn."""
    temperature = 0.0 if seed is None else 1.5
    listener = ask(engine, PROMPTS[0], 300, SamplingOptions(temperature=temperature, seed=seed, json_schema=SCHEMA))
    assert listener.finished().finish_reason == "stop"
    jsonschema.validate(json.loads(listener.text), SCHEMA)


def test_neighbours_of_a_constrained_request_are_free(engine: TextGenerationEngine, folder: Path) -> None:
    free, bound = Listener(), Listener()
    engine.submit(PROMPTS[1], 60, SamplingOptions(), free)
    engine.submit(PROMPTS[0], 300, SamplingOptions(json_schema=SCHEMA), bound)
    bound.finished()
    free.finished()
    assert Reference(folder, 1024).agrees(PROMPTS[1], 60, free.text)
    jsonschema.validate(json.loads(bound.text), SCHEMA)


@pytest.mark.parametrize("fault", REFUSED)
def test_a_schema_that_cannot_be_followed_is_refused_at_once(engine: TextGenerationEngine, fault: str) -> None:
    begun = time.monotonic()
    with pytest.raises(InvalidRequest, match="the JSON schema") as refused:
        ask(engine, PROMPTS[0], 3, SamplingOptions(json_schema=REFUSED[fault]))
    assert "\n" not in refused.value.message
    assert len(refused.value.message) < 200
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("fault", HEAVY)
def test_a_heavy_schema_ends_in_time(engine: TextGenerationEngine, fault: str) -> None:
    begun = time.monotonic()
    listener = Listener()
    try:
        engine.submit(PROMPTS[0], 50, SamplingOptions(json_schema=HEAVY[fault]), listener)
        listener.end()
    except InvalidRequest:
        pass
    assert time.monotonic() - begun < 5
    assert engine.loop.running == 0


class Only(Grammar):
    """Allows one token, with which the text is complete."""

    def __init__(self, token: int) -> None:
        self.token = token

    def allowed(self) -> torch.Tensor:
        return torch.arange(20) == self.token

    def accept(self, token: int) -> bool:
        assert token == self.token
        return True


def allowed(grammar: Grammar) -> list[int] | None:
    mask = grammar.allowed()
    return None if mask is None else mask.nonzero().flatten().tolist()


def test_a_schema_holds_once_the_model_has_ended_its_reasoning() -> None:
    start, end = 3, 4
    for begun in (True, False):
        grammar = ReasoningFirst(Only(7), (start, end), begun)
        if not begun:
            assert allowed(grammar) == [start, 7]
            assert not grammar.accept(start)
        for token in (9, start, 7, end):
            assert allowed(grammar) is None
            assert not grammar.accept(token)
        assert allowed(grammar) == [7]
        assert grammar.accept(7)
    at_once = ReasoningFirst(Only(7), (start, end), begun=False)
    assert at_once.accept(7)
    assert allowed(at_once) == [7]


@pytest.mark.compiles
@pytest.mark.parametrize("special", [["<think>", "</think>"], []])
def test_a_model_reasons_before_what_its_schema_allows_where_tokens_mark_that(
    tmp_path: Path, special: list[str]
) -> None:
    engine = load(save_chat_model(tmp_path, "{{ messages[0].content }}<think>{{ '</think>' if never }}", special))
    prompt, markup, _ = engine.chat([Message(role="user", content="a")], has_schema=True)
    end = engine._tokenizer.added_tokens(["</think>"]).get("</think>")
    listener = Listener()
    # The model ends its reasoning at once.
    sampling = SamplingOptions(json_schema={"enum": ["yes", "no"]}, logit_bias={end: 100.0} if end else None)
    engine.submit(prompt, 40, sampling, listener, markup=markup)
    listener.finished()
    engine.close()
    assert (markup.reasoning is not None, markup.in_reasoning) == (bool(special), bool(special))
    assert listener.text in {f"{mark}{answer}" for answer in ('"yes"', '"no"') for mark in special[1:] or [""]}
