"""What every family's replica does alike, without Ray: deadlines, errors, preloading, its share of the cores."""

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from deployments.contract.errors import InvalidImage, Unavailable
from deployments.contract.types import Chunk, Error, InferResponse, TextGeneration, TextGenerationResult
from deployments.families.text_generation.family import TEXT_GENERATION
from deployments.replica.calls import Call, OnChunk
from deployments.replica.family import model_formats
from deployments.replica.model_replica import ModelReplica, ReplicaOptions
from deployments.repository.local import Repository
from deployments.repository.model import Model
from deployments.residency.ledger import MIB
from tests.conftest import PROJECT

FORMATS = model_formats([TEXT_GENERATION])


class Shouter:
    """An engine of no size."""

    resident_bytes = 0
    runtime_info = ()

    def close(self) -> None: ...


class ShoutingReplica(ModelReplica[TextGeneration, Shouter]):
    """Answers in capitals; some prompts do worse."""

    loads = 0
    asked: list[str] = []  # noqa: RUF012

    def load(self, model: Model) -> Shouter:
        self.loads += 1
        return Shouter()

    async def answer(
        self, request: TextGeneration, model: Model, engine: Shouter, on_chunk: OnChunk | None
    ) -> InferResponse:
        self.asked = [*self.asked, request.prompt]
        if request.prompt == "wait":
            await asyncio.Event().wait()
        if request.prompt == "refuse":
            raise InvalidImage("not today")
        if request.prompt == "break":
            raise RuntimeError("/a/secret")
        for index, letter in enumerate(request.prompt.upper() if on_chunk else "", 1):
            on_chunk(Chunk(letter, index))
        return TextGenerationResult(generated_text=request.prompt.upper())


@pytest.fixture
def models(tmp_path: Path) -> Path:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    save_file({"w": torch.zeros(1)}, tmp_path / "m" / "model.safetensors")
    return tmp_path


def replica(models: Path, **settings: object) -> ShoutingReplica:
    options = TEXT_GENERATION.options.model_validate(settings)
    return ShoutingReplica(ReplicaOptions(TEXT_GENERATION, models, FORMATS, options, models.parent / "cache"))


def found(models: Path) -> Model:
    return Repository(models, FORMATS).find("m", "text_generation")


def call(replica: ShoutingReplica, prompt: str, timeout_s: float = 10, stream: bool = False) -> Call:
    assert isinstance(replica.options.models, Path)
    model = found(replica.options.models)
    request = TextGeneration(model_id="m", prompt=prompt, max_tokens=1)
    return Call(request, "request-1", timeout_s, model, stream, call_id=prompt)


async def exchanged(replica: ShoutingReplica, calls: list[Call]) -> list[list[Chunk | InferResponse]]:
    """All that is said of each call."""
    said: list[list[Chunk | InferResponse]] = [[] for _ in calls]
    async for replies in replica.exchange(calls):
        for number, reply in replies:
            said[number].append(reply)
    return said


async def test_each_call_of_an_exchange_is_answered(models: Path) -> None:
    shouting = replica(models)
    said = await exchanged(shouting, [call(shouting, prompt) for prompt in "ab"])
    assert said == [[TextGenerationResult(generated_text=text)] for text in "AB"]
    assert shouting.record_autoscaling_stats() == {"calls_under_way": 0}


async def test_chunks_come_where_they_are_wanted(models: Path) -> None:
    shouting = replica(models)
    (said,) = await exchanged(shouting, [call(shouting, "ab", stream=True)])
    assert said == [Chunk("A", 1), Chunk("B", 2), TextGenerationResult(generated_text="AB")]


async def test_a_slow_call_holds_up_no_other(models: Path) -> None:
    """The quick one is answered, the slow one is taken back, and then the exchange ends."""
    shouting = replica(models)
    exchange = shouting.exchange([call(shouting, "wait"), call(shouting, "a")])
    heard = []
    async for replies in exchange:
        heard += replies
        if heard == [(1, TextGenerationResult(generated_text="A"))]:
            await shouting.cancel(["wait", "never heard of"])
    ((number, error),) = heard[1:]
    assert (number, error.code) == (0, "cancelled")


@pytest.mark.parametrize(
    ("prompt", "code", "said"),
    [
        ("refuse", "invalid_image", "not today"),
        ("break", "internal", "internal error"),
        ("wait", "deadline_exceeded", ""),
    ],
)
async def test_what_goes_wrong_is_an_error_with_the_request_id(models: Path, prompt: str, code: str, said: str) -> None:
    shouting = replica(models)
    ((answer,),) = await exchanged(shouting, [call(shouting, prompt, timeout_s=0.05 if prompt == "wait" else 10)])
    assert isinstance(answer, Error)
    assert (answer.code, answer.request_id) == (code, "request-1")
    assert said in answer.message
    assert "secret" not in answer.message


async def test_a_call_that_is_given_up_leaves_nothing_running(models: Path) -> None:
    shouting = replica(models)
    given_up = asyncio.create_task(exchanged(shouting, [call(shouting, "wait")]))
    while not shouting.residency.statuses():
        await asyncio.sleep(0)
    while shouting.residency.statuses()[0].state != "ready":
        await asyncio.sleep(0)
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    assert shouting.residency.ledger.entries
    assert all(not entry.leases for entry in shouting.residency.ledger.entries.values())


async def test_a_replica_is_healthy_once_the_models_to_preload_are_loaded_and_its_memory_watched(models: Path) -> None:
    """Serve asks every replica for its health; whether it is ready is asked of one."""
    shouting = replica(models, preload=("m", "missing"))
    ballast = b"\1" * (64 * MIB)
    await shouting.check_health()
    assert [status.state for status in shouting.residency.statuses()] == ["ready"]
    assert shouting.footprint.overhead_bytes < len(ballast) // 2, "it rests once its libraries are imported"
    assert shouting._sweeping is not None
    assert not shouting._sweeping.done()


async def test_what_is_preloaded_has_been_held_to_its_golden_examples(models: Path) -> None:
    golden(models, "nothing else")
    shouting = replica(models, preload=("m",))
    await shouting.ready()
    (status,) = await shouting.statuses()
    assert (status.state, status.bytes) == ("failed", 0)


async def test_a_proof_that_could_not_be_had_is_not_remembered(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where whoever wanted it has left."""
    golden(models, "A")
    shouting = replica(models)

    def refuse(model: Model) -> Path:
        raise Unavailable("the source cannot be reached")

    monkeypatch.setattr(shouting.validator, "validate", refuse)
    leaving = asyncio.create_task(shouting.golden.validate(found(models)))
    await asyncio.sleep(0)
    leaving.cancel()
    while shouting.golden._verdicts:
        await asyncio.sleep(0)
    monkeypatch.undo()
    await shouting.golden.validate(found(models))


async def test_ready_means_that_the_models_to_preload_are_loaded(models: Path) -> None:
    shouting = replica(models, preload=("m", "missing"))
    assert await asyncio.gather(shouting.ready(), shouting.ready()) == [True, True]
    assert shouting.loads == 1
    assert [status.state for status in shouting.residency.statuses()] == ["ready"]


@pytest.mark.parametrize(("share", "cores"), [(0.01, 1), (0.5, max(1, len(os.sched_getaffinity(0)) // 2)), (1.0, None)])
def test_a_replica_computes_on_its_share_of_the_cores(share: float, cores: int | None) -> None:
    """In a process of its own: affinity is for good."""
    check = (
        "import os; from deployments.system.cores import limit_cores; "
        f"print(limit_cores({share}), len(os.sched_getaffinity(0)))"
    )
    run = subprocess.run([sys.executable, "-c", check], cwd=PROJECT, capture_output=True, text=True, check=True)
    expected = cores or len(os.sched_getaffinity(0))
    assert run.stdout.split() == [str(expected)] * 2


def golden(models: Path, text: str) -> None:
    (models / "m" / "model.yaml").write_text(f"golden: [{{prompt: a, max_tokens: 1, text: {text}}}]")


async def test_a_model_whose_golden_examples_hold_answers_and_they_are_asked_once(models: Path) -> None:
    golden(models, "A")
    shouting = replica(models)
    said = await exchanged(shouting, [call(shouting, prompt) for prompt in "bcd"])
    assert [answer.generated_text for (answer,) in said] == ["B", "C", "D"]  # type: ignore[attr-defined]
    assert shouting.asked == ["a", "b", "c", "d"]


async def test_a_model_whose_golden_examples_do_not_hold_answers_nobody(models: Path) -> None:
    golden(models, "nothing else")
    shouting = replica(models)
    for _ in range(2):
        ((answer,),) = await exchanged(shouting, [call(shouting, "b")])
        assert isinstance(answer, Error)
        assert answer.code == "model_load_failed"
        assert answer.message == "m: golden example 'a': 'A' instead of 'nothing else'"
    assert shouting.asked == ["a"]
    (status,) = await shouting.statuses()
    assert (status.state, status.reason) == ("failed", answer.message)
    error = await shouting.load_model(found(models), 10)
    assert error is not None
    assert error.code == "model_load_failed"


async def test_pins_are_what_the_board_said_last(models: Path) -> None:
    shouting = replica(models)
    model = found(models)
    for pinned in (True, False):
        calling = replace(call(shouting, "a"), model=replace(model, pinned=pinned))
        await exchanged(shouting, [calling])
        (status,) = await shouting.statuses()
        assert status.pinned == pinned


async def test_a_hostile_folder_is_refused_before_anything_of_it_is_loaded(models: Path) -> None:
    shouting = replica(models)
    good = found(models)
    save_file({"w": torch.zeros(8)}, models / "m" / "model.safetensors")
    os.truncate(models / "m" / "model.safetensors", (models / "m" / "model.safetensors").stat().st_size - 1)
    error = await shouting.load_model(good, 10)
    assert error is not None
    assert error.message == "m: model.safetensors: is truncated"
    assert shouting.loads == 0


async def test_a_model_to_be_warm_is_loaded_when_a_replica_starts(models: Path) -> None:
    (models / "m" / "model.yaml").write_text("warm_up: true")
    shouting = replica(models)
    await shouting.ready()
    assert [status.state for status in await shouting.statuses()] == ["ready"]


async def test_a_new_version_is_loaded_where_the_old_one_is(models: Path) -> None:
    old = found(models)
    new = replace(old, digest="another")
    holding, idle = replica(models), replica(models)
    await exchanged(holding, [call(holding, "a")])
    for shouting in (holding, idle):
        await shouting.load_beside(old, new, 10)
    assert {status.digest for status in await holding.statuses()} == {old.digest, new.digest}
    assert await idle.statuses() == []


class Gpu:
    """Plays the memory of one."""

    def held(self) -> int:
        return 3 * MIB

    def give_back(self) -> None:
        """Nothing."""


@pytest.mark.parametrize(("share_mb", "budget_mb"), [(40, 40), (4000, 64)])
async def test_models_on_a_gpu_stay_within_the_share_of_it_and_the_budget(
    models: Path, share_mb: int, budget_mb: int
) -> None:
    shouting, gpu = replica(models, required_mem_mb=64), Gpu()
    shouting.live_on(gpu, share_mb * MIB)
    await exchanged(shouting, [call(shouting, "a")])
    await shouting.unload_model(found(models))
    status = await shouting.replica_status()
    assert status.process.budget_bytes == budget_mb * MIB
    assert status.process.process_bytes == 3 * MIB
    (unload,) = [model.last_unload for model in status.models]
    assert unload
    assert (unload.process_bytes_before, unload.process_bytes_after) == (3 * MIB, 3 * MIB)
