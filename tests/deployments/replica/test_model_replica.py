"""A replica with models, without Ray: deadlines, errors, golden examples, preloading, pins, a GPU's share."""

import asyncio
import fcntl
import math
import os
import pwd
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from deployments.contract.chunk import Chunk
from deployments.contract.types import Error, TextGenerationResult
from deployments.replica.calls import Holdings, News
from deployments.repository.model import Model
from deployments.residency.ledger import MIB
from deployments.system.oom_kills import oom_kills
from tests.deployments.replica.conftest import CapitalsReplica, Engine, Started, call, found, states
from tests.support.until import until


def golden(models: Path, text: str) -> None:
    (models / "m" / "model.yaml").write_text(f"golden: [{{prompt: a, max_tokens: 1, text: {text}}}]")


async def test_a_call_is_answered_by_its_models_engine_in_chunks_where_they_are_wanted(
    models: Path, started: Started
) -> None:
    replica = started()
    chunks: list[Chunk] = []
    for on_chunk in (None, chunks.append):
        assert await replica.infer(call(found(models), "ab"), on_chunk) == TextGenerationResult(generated_text="AB")
    assert chunks == [Chunk("A", 1), Chunk("B", 2)]
    assert replica.loads == 1


async def test_a_call_that_takes_longer_than_its_deadline_fails(models: Path, started: Started) -> None:
    answer = await started().respond(call(found(models), "wait", timeout_s=0.2), None)
    assert isinstance(answer, Error)
    assert (answer.code, answer.request_id) == ("deadline_exceeded", "request-1")


async def test_a_call_tells_the_stations_that_it_passed(models: Path, started: Started) -> None:
    replica, told = started(), list[News]()
    await replica.respond(call(found(models), "ab"), None, told.append)
    await replica.respond(call(found(models), "wait", timeout_s=0.2), None, told.append)
    assert [set(one) for one in told if isinstance(one, dict)] == [{"load_s", "compute_s"}, {"load_s"}]


class Ingresses:
    """In place of a server: keeps what the replica tells."""

    def __init__(self, replica: CapitalsReplica) -> None:
        self.replica, self.reported = replica, list[Holdings]()

    def report_holdings(self) -> None:
        self.reported.append(self.replica.holdings())


async def test_a_model_is_reported_to_ingresses_before_its_load_and_before_its_memory_is_freed(
    models: Path, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = started(required_mem_mb=100)
    ingresses = Ingresses(replica)
    monkeypatch.setattr(replica, "_server", ingresses)
    answering = asyncio.create_task(replica.respond(call(found(models), "go on"), None))
    await until(lambda: ingresses.reported)
    assert [one.models for one in ingresses.reported] == [{"m"}]
    replica.goes_on.set()
    await answering
    await replica.unload_model(found(models))
    assert [one.models for one in ingresses.reported] == [{"m"}, set()]
    assert ingresses.reported[-1].free == 1.0


def test_a_replica_without_a_home_gives_one_to_its_libraries(
    models: Path, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(uid: int) -> pwd.struct_passwd:
        raise KeyError(uid)

    monkeypatch.setenv("HOME", "of another test")  # So that it is restored.
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    cache = started().cache
    assert Path.home() == cache == models.parent / "cache"


async def test_a_stream_goes_on_while_it_is_not_silent(models: Path, started: Started) -> None:
    replica = started()
    assert await replica.infer(call(found(models), "a")) == TextGenerationResult(generated_text="A")
    clock, begun = asyncio.get_running_loop().time, asyncio.Event()
    stream = replace(call(found(models), "go on", timeout_s=0.2), stream=True, silence_s=60.0)
    before = clock()
    going = asyncio.create_task(replica.respond(stream, lambda chunk: begun.set()))
    await begun.wait()
    await until(lambda: clock() > before + 0.3)
    replica.goes_on.set()
    assert await going == TextGenerationResult(generated_text="GO ON")


@pytest.mark.parametrize(("silence_s", "total_s"), [(0.02, 60.0), (60.0, 0.2)])
async def test_a_stream_ends_when_it_falls_silent_and_when_its_caller_has_no_more_time(
    models: Path, started: Started, silence_s: float, total_s: float
) -> None:
    replica, chunks = started(), list[Chunk]()
    assert await replica.infer(call(found(models), "a")) == TextGenerationResult(generated_text="A")
    stream = replace(call(found(models), "go on"), stream=True, silence_s=silence_s, total_s=total_s)
    answer = await replica.respond(stream, chunks.append)
    assert isinstance(answer, Error)
    assert (answer.code, len(chunks)) == ("deadline_exceeded", 5)


async def test_a_cancelled_call_gives_its_lease_back(models: Path, started: Started) -> None:
    replica = started()
    waiting = asyncio.create_task(replica.infer(call(found(models), "wait")))
    await until(lambda: replica.prompts)
    (entry,) = replica.residency.ledger.entries.values()
    assert entry.leases
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not entry.leases


async def test_a_replica_is_healthy_once_the_models_to_preload_are_loaded_and_its_memory_is_watched(
    started: Started,
) -> None:
    """Serve asks every replica for its health; it asks one replica whether it is ready."""
    replica = started(preload=("m", "missing"))
    ballast = b"\1" * (64 * MIB)
    await replica.check_health()
    assert await states(replica) == ["ready"]
    assert replica.footprint.overhead_bytes < len(ballast) // 2, "its resting size was measured first"
    assert replica._sweeping is not None
    assert not replica._sweeping.done()


async def test_it_is_ready_once_the_models_to_preload_are_loaded_each_once(started: Started) -> None:
    replica = started(preload=("m", "missing"))
    assert all(await asyncio.gather(replica.ready(), replica.ready()))
    assert replica.loads == 1
    assert await states(replica) == ["ready"]


async def test_a_preloaded_models_golden_examples_are_validated(models: Path, started: Started) -> None:
    golden(models, "nothing else")
    replica = started(preload=("m",))
    await replica.ready()
    (status,) = await replica.statuses()
    assert (status.state, status.bytes) == ("failed", 0)


async def test_a_model_whose_golden_examples_are_right_answers_and_they_are_asked_once(
    models: Path, started: Started
) -> None:
    golden(models, "A")
    replica = started()
    answers = [await replica.infer(call(found(models), prompt)) for prompt in "bcd"]
    assert answers == [TextGenerationResult(generated_text=text) for text in "BCD"]
    assert replica.prompts == ["a", "b", "c", "d"]


async def test_a_model_whose_golden_examples_are_wrong_answers_no_call(models: Path, started: Started) -> None:
    golden(models, "nothing else")
    replica, reason = started(), "m: golden example 'a': 'A' instead of 'nothing else'"
    for _ in range(2):
        answer = await replica.respond(call(found(models), "b"), None)
        assert isinstance(answer, Error)
        assert (answer.code, answer.message) == ("model_load_failed", reason)
    assert replica.prompts == ["a"]
    (status,) = await replica.statuses()
    assert (status.state, status.reason) == ("failed", reason)
    error = await replica.load_model(found(models), 10)
    assert error is not None
    assert error.code == "model_load_failed"


async def test_the_pin_that_comes_with_the_newest_call_applies(models: Path, started: Started) -> None:
    replica = started()
    for pinned in (True, False):
        await replica.infer(call(replace(found(models), pinned=pinned), "a"))
        (status,) = await replica.statuses()
        assert status.pinned == pinned


async def test_a_hostile_folder_is_refused_before_anything_of_it_is_loaded(models: Path, started: Started) -> None:
    replica, good = started(), found(models)
    weights = models / "m" / "model.safetensors"
    save_file({"w": torch.zeros(8)}, weights)
    os.truncate(weights, weights.stat().st_size - 1)
    error = await replica.load_model(good, 10)
    assert error is not None
    assert error.message == "m: model.safetensors: is truncated"
    assert replica.loads == 0


async def test_a_model_to_be_warm_is_loaded_when_a_replica_starts(models: Path, started: Started) -> None:
    (models / "m" / "model.yaml").write_text("warm_up: true")
    replica = started()
    await replica.ready()
    assert await states(replica) == ["ready"]


async def test_a_new_version_is_loaded_where_the_old_one_is(models: Path, started: Started) -> None:
    old = found(models)
    new = replace(old, digest="another")
    holding, idle = started(), started()
    await holding.infer(call(old, "a"))
    for replica in (holding, idle):
        await replica.load_beside(old, new, 10)
    assert {status.digest for status in await holding.statuses()} == {old.digest, new.digest}
    assert await idle.statuses() == []


class Gpu:
    """The memory of a GPU of which 3 MiB are taken."""

    def held(self) -> int:
        return 3 * MIB

    def give_back(self) -> None:
        """Has nothing to give back."""


@pytest.mark.parametrize(("share_mb", "budget_mb"), [(40, 40), (4000, 64)])
async def test_models_on_a_gpu_stay_within_the_share_of_it_and_the_budget(
    models: Path, started: Started, share_mb: int, budget_mb: int
) -> None:
    replica = started(required_mem_mb=64)
    replica.use_gpu(Gpu(), share_mb * MIB)
    await replica.infer(call(found(models), "a"))
    await replica.unload_model(found(models))
    status = await replica.replica_status()
    assert status.process.budget_bytes == budget_mb * MIB
    assert status.process.process_bytes == 3 * MIB
    (unload,) = [model.last_unload for model in status.models]
    assert unload
    assert (unload.process_bytes_before, unload.process_bytes_after) == (3 * MIB, 3 * MIB)


class Grown:
    """The memory of a process that has taken 200 MiB more than a replica states for itself."""

    def __init__(self, replica: CapitalsReplica) -> None:
        self.bytes = replica.footprint.resting_bytes + replica.footprint.stated_bytes + 200 * MIB

    def held(self) -> int:
        return self.bytes

    def give_back(self) -> None:
        """Has nothing to give back."""


async def test_a_model_with_which_the_kernel_killed_a_replica_is_refused_by_the_next_one_with_numbers(
    models: Path, started: Started
) -> None:
    killed, other = started(required_mem_mb=100), started(required_mem_mb=100)
    killed.footprint.memory = Grown(killed)
    loading, may_end = threading.Event(), threading.Event()

    def load(model: Model) -> Engine:
        loading.set()
        may_end.wait()
        return Engine()

    killed.load = load  # type: ignore[method-assign]
    caller = asyncio.create_task(killed.infer(call(found(models), "a")))
    await until(loading.is_set)
    assert killed.oom_record._file is not None
    fcntl.flock(killed.oom_record._file, fcntl.LOCK_UN)  # As the end of its process does.
    other.oom_record._kills = lambda: oom_kills() + 1
    answer = await other.respond(call(found(models), "b"), None)
    assert isinstance(answer, Error)
    assert (answer.code, other.loads) == ("out_of_memory", 0)
    assert "m: needs 250 MiB, the budget is 100 MiB: families.text_generation.required_mem_mb is 100" in answer.message
    may_end.set()
    await caller


async def test_a_replica_whose_engine_stands_still_is_unhealthy_and_not_ready(
    models: Path, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = started(preload=("m",))
    await replica.check_health()
    monkeypatch.setattr(Engine, "busy_s", math.inf, raising=False)
    assert not await replica.ready()
    with pytest.raises(RuntimeError, match="m has come to a standstill"):
        await replica.check_health()
