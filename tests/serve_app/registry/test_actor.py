"""The registry's actor without Ray: Serve's context, Ray's key-value store and the deployments are replaced."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray import serve

from deployments.contract.status import Suspect
from deployments.repository.versions import Table
from serve_app.registry import actor
from serve_app.registry.actor import ModelRegistryActor
from tests.support.until import until


@dataclass
class Store:
    """Ray's. Each test has its own: a write of the test before may still be under way in its thread."""

    values: dict[bytes, bytes] = field(default_factory=dict)
    failures: list[Exception] = field(default_factory=list)
    """Of the next writes."""
    writes: int = 0

    def put(self, key: bytes, value: bytes, *, namespace: bytes) -> None:
        self.writes += 1
        if self.failures:
            raise self.failures.pop()
        self.values[key] = value

    def get(self, key: bytes, *, namespace: bytes) -> bytes | None:
        return self.values.get(key)


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    store = Store()
    monkeypatch.setattr(serve, "get_deployment_actor_context", lambda: SimpleNamespace(app_name="a"))
    monkeypatch.setattr(actor, "_internal_kv_get", store.get)
    monkeypatch.setattr(actor, "_internal_kv_put", store.put)
    monkeypatch.setattr(actor, "SCAN_EVERY_S", 0.0)
    monkeypatch.setattr(actor, "MAX_SCAN_SHARE", 1.0)  # else a slow scan on a busy machine delays the next one long
    return store


def model_folder(root: Path, name: str) -> Path:
    (root / name).mkdir()
    (root / name / "config.json").write_text("{}")
    return root


async def table_of(registry: ModelRegistryActor, known: str | None = None) -> tuple[str, Table]:
    async with asyncio.timeout(20):
        update = await registry.table(known)
    assert update is not None
    return update


async def stop(registry: ModelRegistryActor) -> None:
    assert registry._watching is not None
    registry._watching.cancel()
    await asyncio.wait((registry._watching,))


async def test_scanning_goes_on_after_rays_store_was_unreachable(tmp_path: Path, store: Store) -> None:
    store.failures.append(RuntimeError("no connection to GCS"))
    registry = ModelRegistryActor(str(model_folder(tmp_path, "m")), {}, [], {})
    _, table = await table_of(registry)
    assert table.models.keys() == {"m"}
    await stop(registry)
    assert store.failures == []
    assert store.writes > 1, "what could not be written is written again"


async def test_a_caller_waits_for_the_next_table_and_gets_nothing_if_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = ModelRegistryActor(str(model_folder(tmp_path, "m")), {}, [], {})
    generation, _ = await table_of(registry)
    waiting = asyncio.create_task(table_of(registry, generation))
    model_folder(tmp_path, "n")
    generation, table = await waiting
    assert table.models.keys() == {"m", "n"}
    monkeypatch.setattr(actor, "POLL_TIMEOUT_S", 0.0)
    assert await registry.table(generation) is None
    await stop(registry)


async def test_a_pin_outlives_the_actor(tmp_path: Path) -> None:
    model_folder(tmp_path, "m")
    first = ModelRegistryActor(str(tmp_path), {}, [], {})
    await first.pin("m", True)
    await stop(first)
    second = ModelRegistryActor(str(tmp_path), {}, [], {})
    _, table = await table_of(second)
    assert table.models["m"].pinned
    await stop(second)


async def test_the_quarantine_outlives_the_actor_and_is_in_the_table_until_it_is_lifted(tmp_path: Path) -> None:
    suspect = Suspect("d", "m", "text_generation", "r")
    first = ModelRegistryActor(str(tmp_path), {}, [], {}, quarantine_s=60)
    assert not await first.died_alone(suspect)
    second = ModelRegistryActor(str(tmp_path), {}, [], {}, quarantine_s=60)
    assert await second.died_alone(suspect)
    third = ModelRegistryActor(str(tmp_path), {}, [], {}, quarantine_s=60)
    generation, table = await table_of(third)
    assert table.quarantined == {"m": frozenset({"d"})}
    (refused,) = await third.quarantined()
    waiting = asyncio.create_task(table_of(third, generation))
    assert await third.lift("d") == refused
    assert (await waiting)[1].quarantined == {}
    assert await third.lift("d") is None
    await stop(third)


async def test_a_repository_that_vanishes_and_comes_back_costs_no_model(tmp_path: Path) -> None:
    root = tmp_path / "models"
    root.mkdir()
    registry = ModelRegistryActor(str(model_folder(root, "m")), {}, [], {})
    generation, _ = await table_of(registry)
    root.rename(tmp_path / "away")
    await until(lambda: registry.unread > 1)
    assert registry.registry.table().models.keys() == {"m"}
    model_folder(tmp_path / "away", "n")
    (tmp_path / "away").rename(root)
    _, table = await table_of(registry, generation)
    assert table.models.keys() == {"m", "n"}
    await stop(registry)
