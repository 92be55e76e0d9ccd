"""What a replica is made from, what of it may change while it runs, and what one that is added takes over."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from deployments.contract.types import TextGenerationResult
from deployments.families.text_generation.family import TEXT_GENERATION, TextGenerationOptions
from deployments.replica.options import ReplicaOptions
from deployments.repository.model import Model
from tests.deployments.replica.conftest import Started, call, found, states
from tests.support.until import until

OPTIONS = ReplicaOptions(TEXT_GENERATION, Path("models"), {}, TextGenerationOptions(num_gpus=0))


@pytest.mark.parametrize("models", [Path("/elsewhere"), "s3://bucket/models"])
def test_settings_and_the_place_of_the_models_travel_as_json(models: Path | str) -> None:
    settings = TextGenerationOptions(num_gpus=0, deadline_s=5, preload=("a",))
    other = replace(OPTIONS, models=models, settings=settings, sources=("s3://",))
    assert OPTIONS.changed(json.loads(json.dumps(other.user_config))) == other


@pytest.mark.parametrize("broken", [{}, {"settings": {"preload": 5}, "models": "m", "sources": []}])
def test_what_cannot_be_read_changes_nothing_and_is_logged(
    broken: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    assert OPTIONS.changed(broken) is OPTIONS
    assert "a change is left out" in caplog.text


def changed(models: Path, **settings: object) -> dict[str, object]:
    """As the application hands it to Serve."""
    read = TEXT_GENERATION.options.model_validate(settings)
    return {"settings": read.model_dump(mode="json"), "models": str(models), "sources": []}


async def test_settings_reach_a_replica_as_it_runs_and_what_is_to_be_preloaded_is(
    models: Path, started: Started
) -> None:
    replica = started()
    await replica.ready()
    await replica.reconfigure(changed(models, preload=["m"], deadline_s=5, unload_idle_s=7))
    await until(lambda: replica.loads == 1)
    assert (replica.settings.deadline_s, replica.residency.idle_s) == (5, 7)
    await replica.reconfigure(changed(models, preload=["m"]))
    assert await replica.infer(call(found(models), "ab")) == TextGenerationResult(generated_text="AB")
    assert replica.loads == 1


async def test_a_model_is_answered_from_the_repository_that_it_was_found_in(
    models: Path, started: Started, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The ingress and its replicas learn of another one one after the other."""
    replica = started()
    await replica.reconfigure(changed(tmp_path_factory.mktemp("others")))
    assert await replica.infer(call(found(models), "ab")) == TextGenerationResult(generated_text="AB")


async def test_a_replica_that_is_added_loads_what_the_others_used_just_now_before_it_is_ready(
    models: Path, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new, idle = started(), started(), started()
    assert await old.in_use() == []
    await old.infer(call(found(models), "ab"))

    async def asked(method: str) -> list[list[Model]]:
        return [await getattr(one, method)() for one in (old, idle)]

    monkeypatch.setattr("deployments.replica.model_replica.asked_of_peers", asked)
    assert await new.ready()
    assert (new.loads, await states(new)) == (1, ["ready"])
