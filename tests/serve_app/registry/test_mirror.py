"""The mirror follows the registry's actor, which is replaced here by a queue of tables."""

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from deployments.contract.errors import ModelNotFound, Unavailable, WrongFamily
from deployments.contract.status import Suspect
from deployments.repository.model import Model
from deployments.repository.versions import Table
from serve_app.registry import mirror
from serve_app.registry.mirror import RegistryMirror

TABLE = Table({"m": Model("m", None, Path("m"), "a", "text_generation")})
Update = tuple[str, Table] | Exception | None


class Registry:
    """The actor: gives one update after another, then none. Keeps the generations that callers knew."""

    def __init__(self, *updates: Update) -> None:
        self.updates = list(updates)
        self.known: list[str | None] = []
        self.table = SimpleNamespace(remote=self._table)

    async def _table(self, known: str | None) -> tuple[str, Table] | None:
        self.known.append(known)
        if not self.updates:
            await asyncio.Event().wait()
        update = self.updates.pop(0)
        if isinstance(update, Exception):
            raise update
        return update


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    registry = Registry()
    monkeypatch.setattr(mirror, "registry_actor", lambda: registry)
    monkeypatch.setattr(mirror, "RETRY_AFTER_S", 0.0)
    return registry


async def test_the_mirror_follows_each_table_and_retries_after_a_failure(registry: Registry) -> None:
    registry.updates = [("a-1", Table()), RuntimeError("the actor restarts"), None, ("b-1", TABLE)]
    copy = RegistryMirror()
    assert not copy.is_known
    following = asyncio.create_task(copy.follow())
    await copy.ready()
    await copy.wait_for(lambda table: table == TABLE)
    assert copy.models().keys() == {"m"}
    assert registry.known[:4] == [None, "a-1", "a-1", "a-1"]
    following.cancel()


async def test_a_model_is_found_by_its_name_and_family() -> None:
    copy = RegistryMirror()
    copy.table = TABLE
    copy._known.set()
    assert await copy.find_model("m", "text_generation") == TABLE.models["m"]
    with pytest.raises(WrongFamily):
        await copy.find_model("m", "image_classification")
    with pytest.raises(ModelNotFound):
        await copy.find_model("n", "text_generation")


async def test_without_a_first_table_requests_are_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "FIRST_TABLE_TIMEOUT_S", 0.0)
    with pytest.raises(Unavailable):
        await RegistryMirror().ready()


async def test_waiting_for_a_change_ends_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "CHANGE_TIMEOUT_S", 0.0)
    await RegistryMirror().wait_for(lambda table: False)


async def test_a_death_is_counted_by_the_actor_and_an_actor_that_does_not_answer_refuses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cleared: list[str] = []

    async def died_alone(suspect: Suspect) -> bool:
        if suspect.digest == "lost":
            raise RuntimeError("the actor restarts")
        return True

    actor = SimpleNamespace(
        died_alone=SimpleNamespace(remote=died_alone), answered_alone=SimpleNamespace(remote=cleared.append)
    )
    monkeypatch.setattr(mirror, "registry_actor", lambda: actor)
    copy = RegistryMirror()
    assert [await copy.died_alone(Suspect(digest, "m", "f", "r")) for digest in ("d", "lost")] == [True, False]
    copy.answered_alone("d")
    assert cleared == ["d"]
