"""A model's golden examples are asked once for each content; a model that answers otherwise is refused."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from deployments.contract.errors import (
    InvalidImage,
    ModelLoadFailed,
    OutOfMemory,
    Overloaded,
    ServingError,
    Unavailable,
)
from deployments.contract.status import ResidentStatus
from deployments.contract.types import InferRequest, InferResponse, TextGeneration, TextGenerationResult
from deployments.repository.manifest import Manifest
from deployments.repository.model import Model
from deployments.validation.golden import GoldenExample, NotGolden
from deployments.validation.golden_validator import REMEMBERED, GoldenValidator
from tests.support.until import turns, until


class Capitals(GoldenExample):
    """The answer is to be the prompt in capitals."""

    prompt: str

    @property
    def title(self) -> str:
        return self.prompt

    def request(self, model_id: str, folder: Path) -> TextGeneration:
        if self.prompt == "missing":
            raise NotGolden("a file is missing")
        return TextGeneration(model_id=model_id, prompt=self.prompt, max_tokens=1)

    def fault(self, answer: InferResponse) -> str | None:
        assert isinstance(answer, TextGenerationResult)
        return None if answer.generated_text == self.prompt.upper() else f"answered {answer.generated_text}"


class Replica:
    """Answers in capitals, or raises `failure`. `go_on` holds the answers back."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.failure: ServingError | None = None
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.golden = GoldenValidator(self.validated, Capitals, self.answer)
        self.refusal: ServingError | None = None

    def validated(self, model: Model) -> Path:
        if self.refusal:
            raise self.refusal
        return model.folder

    async def answer(self, request: InferRequest, model: Model) -> InferResponse:
        assert isinstance(request, TextGeneration)
        self.asked.append(request.prompt)
        await self.go_on.wait()
        if self.failure:
            raise self.failure
        return TextGenerationResult(generated_text="é" if request.prompt == "e" else request.prompt.upper())


@pytest.fixture
def replica() -> Replica:
    return Replica()


def model(*prompts: str, digest: str = "digest") -> Model:
    examples: tuple[Mapping[str, object], ...] = tuple({"prompt": prompt} for prompt in prompts)
    return Model("m", None, Path(), digest, manifest=Manifest(golden=examples))


async def test_examples_are_asked_once_for_each_content_by_however_many_callers(replica: Replica) -> None:
    await asyncio.gather(*(replica.golden.validate(model("a", "b")) for _ in range(3)))
    assert replica.asked == ["a", "b"]
    await replica.golden.validate(model("a", "b", digest="another"))
    assert replica.asked == ["a", "b"] * 2


async def test_a_model_without_examples_is_not_asked(replica: Replica) -> None:
    await replica.golden.validate(model())
    assert replica.asked == []


@pytest.mark.parametrize(
    ("prompts", "said"),
    [(("a", "e"), "m: golden example 'e': answered é"), (("missing",), "m: a file is missing")],
)
async def test_a_model_with_another_answer_is_refused_each_time_and_asked_once(
    replica: Replica, prompts: tuple[str, ...], said: str
) -> None:
    for _ in range(2):
        with pytest.raises(ModelLoadFailed) as refused:
            await replica.golden.validate(model(*prompts))
        assert refused.value.message == said
    assert len(replica.asked) < 3


async def test_an_example_that_the_model_refuses_is_a_fault_of_the_model(replica: Replica) -> None:
    replica.failure = InvalidImage("no image")
    for _ in range(2):
        with pytest.raises(ModelLoadFailed, match="m: golden example 1: no image"):
            await replica.golden.validate(model("a"))
    assert replica.asked == ["a"]


@pytest.mark.parametrize("failure", [OutOfMemory("too large"), Overloaded("later"), Unavailable("no source")])
async def test_a_failure_that_is_none_of_the_models_is_not_remembered(replica: Replica, failure: ServingError) -> None:
    replica.failure = failure
    with pytest.raises(type(failure)):
        await replica.golden.validate(model("a"))
    replica.failure = None
    await replica.golden.validate(model("a"))


async def test_nor_is_it_remembered_where_the_caller_was_cancelled(replica: Replica) -> None:
    replica.refusal = Unavailable("the source cannot be reached")
    cancelled = asyncio.create_task(replica.golden.validate(model("a")))
    await turns()
    cancelled.cancel()
    await until(lambda: not replica.golden._verdicts)
    replica.refusal = None
    await replica.golden.validate(model("a"))


async def test_a_caller_that_is_cancelled_does_not_cancel_what_others_wait_for(replica: Replica) -> None:
    replica.go_on.clear()
    first, second = (asyncio.create_task(replica.golden.validate(model("a"))) for _ in range(2))
    await until(lambda: replica.asked)
    first.cancel()
    replica.go_on.set()
    await second
    assert replica.asked == ["a"]


async def test_a_folder_that_is_refused_is_named(replica: Replica) -> None:
    replica.refusal = ModelLoadFailed("holds code")
    with pytest.raises(ModelLoadFailed, match="m: holds code"):
        await replica.golden.validate(model("a"))


async def test_a_model_with_another_answer_has_failed(replica: Replica) -> None:
    loaded = ResidentStatus("m", "digest", "ready")
    assert replica.golden.with_verdict(loaded) == loaded
    with pytest.raises(ModelLoadFailed) as refused:
        await replica.golden.validate(model("e"))
    shown = replica.golden.with_verdict(loaded)
    assert (shown.state, shown.reason) == ("failed", refused.value.message)
    other = replace(loaded, digest="another")
    assert replica.golden.with_verdict(other) == other


async def test_the_oldest_verdicts_are_forgotten(replica: Replica) -> None:
    for number in range(REMEMBERED + 1):
        await replica.golden.validate(model("a", digest=str(number)))
    assert len(replica.golden._verdicts) == REMEMBERED
