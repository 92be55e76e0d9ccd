"""An operator's requests. Deployments and the registry's actor are replaced."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deployments.contract.errors import ModelLoadFailed, ModelNotFound, NotFound, OutOfMemory
from deployments.contract.status import Plan, QuarantinedInput, Verb
from deployments.contract.types import Error
from deployments.repository.model import Model
from deployments.repository.versions import Table
from serve_app.registry import admin as module
from serve_app.registry.admin import RegistryAdmin
from serve_app.registry.mirror import RegistryMirror

MODEL = Model("m", None, Path("m"), "a", "text_generation")
ORPHAN = Model("orphan", None, Path("orphan"), "a", None, problem="no family serves it")
PLAN = Plan("replica", "m", False, True, 1, False, 2)


class Deployment:
    """A family's handle: its replicas load what they are asked to, or fail with `error`."""

    def __init__(self) -> None:
        self.loaded: list[Model] = []
        self.error: Error | None = None
        self.load_model = SimpleNamespace(remote=self._load)

    async def _load(self, model: Model, timeout_s: float) -> Error | None:
        self.loaded.append(model)
        return self.error


@pytest.fixture
def mirror() -> RegistryMirror:
    mirror = RegistryMirror()
    mirror.table = Table({"m": MODEL, "orphan": ORPHAN})
    mirror._known.set()
    return mirror


@pytest.fixture
def deployment() -> Deployment:
    return Deployment()


@pytest.fixture
def broadcasts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """The method and arguments of each broadcast."""
    seen: list[tuple[object, ...]] = []

    async def broadcast(handle: object, method: str, *arguments: object, timeout_s: float = 1) -> Sequence[object]:
        seen.append((method, *arguments))
        return [PLAN] if method == "plan" else []

    monkeypatch.setattr(module, "broadcast", broadcast)
    return seen


@pytest.fixture
def admin(mirror: RegistryMirror, deployment: Deployment, broadcasts: list[tuple[object, ...]]) -> RegistryAdmin:
    handles: dict[str, Any] = {"text_generation": deployment}
    return RegistryAdmin(mirror, handles, {"text_generation": ("m", "n")})


async def test_a_model_that_is_removed_while_its_status_is_requested_is_shown_as_it_was(
    mirror: RegistryMirror, admin: RegistryAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broadcast(*_: object) -> list[object]:
        mirror.table = Table()
        return []

    monkeypatch.setattr(module, "broadcast", broadcast)
    assert (await admin.model("m")).state == "available"


async def test_an_ingress_has_the_contents_that_it_knows_loaded_beside_those_in_use(
    mirror: RegistryMirror, admin: RegistryAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    same, other, gone = MODEL, Model("n", None, Path("n"), "old", "text_generation"), Model("gone", None, Path(), "a")
    new = Model("n", None, Path("elsewhere"), "new", "text_generation")
    mirror.table = Table({"m": MODEL, "n": new})
    loaded: list[object] = []

    async def broadcast(handle: object, method: str, *arguments: object, **options: object) -> list[list[Model]]:
        if method == "in_use":
            return [[same, other], [other, gone]]
        loaded.append((method, *arguments[:2]))
        return []

    monkeypatch.setattr(module, "broadcast", broadcast)
    await admin.take_over()
    assert loaded == [("load_beside", other, new)]


async def test_loading_goes_to_one_replica_and_its_error_is_raised(
    admin: RegistryAdmin, deployment: Deployment
) -> None:
    await admin.do(Verb.LOAD, "m")
    assert deployment.loaded == [MODEL]
    deployment.error = Error.of(OutOfMemory("too large"))
    with pytest.raises(OutOfMemory):
        await admin.do(Verb.LOAD, "m")


async def test_a_models_family_is_told_by_its_name(admin: RegistryAdmin) -> None:
    assert await admin.family("m") == "text_generation"
    with pytest.raises(ModelLoadFailed, match="no family serves it"):
        await admin.family("orphan")
    with pytest.raises(ModelNotFound):
        await admin.family("none")


async def test_unloading_and_planning_go_to_every_replica(
    admin: RegistryAdmin, broadcasts: list[tuple[object, ...]]
) -> None:
    await admin.do(Verb.UNLOAD, "m")
    assert await admin.do(Verb.PLAN, "m") == [PLAN]
    assert [sent for sent in broadcasts if sent[0] != "replica_status"] == [("unload_model", MODEL), ("plan", MODEL)]


async def test_a_pin_goes_to_the_registry_and_to_every_replica(
    admin: RegistryAdmin, broadcasts: list[tuple[object, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pins: list[tuple[str, bool]] = []

    async def pin(model_id: str, pinned: bool) -> None:
        pins.append((model_id, pinned))

    monkeypatch.setattr(module, "registry_actor", lambda: SimpleNamespace(pin=SimpleNamespace(remote=pin)))
    await admin.do(Verb.UNPIN, "m")
    assert pins == [("m", False)]
    assert ("pin", MODEL, False) in broadcasts


async def test_what_cannot_be_administered_raises(admin: RegistryAdmin) -> None:
    with pytest.raises(ModelNotFound):
        await admin.do(Verb.SHOW, "nothing")
    with pytest.raises(ModelLoadFailed, match="no family serves it"):
        await admin.do(Verb.UNLOAD, "orphan")


async def test_a_model_to_preload_that_there_is_not_is_a_warning(admin: RegistryAdmin) -> None:
    assert await admin.warnings() == ["families.text_generation.preload: no model 'n'"]
    admin.preload = {"text_generation": ("m",)}
    assert await admin.warnings() == []


async def test_a_lifted_input_is_returned_and_an_unknown_one_not_found(
    mirror: RegistryMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = QuarantinedInput("d", "m", "text_generation", "r", deaths=2, since=1.0, until=2.0)

    async def quarantined() -> list[QuarantinedInput]:
        return [entry]

    async def lift(digest: str) -> QuarantinedInput | None:
        return entry if digest == "d" else None

    actor = SimpleNamespace(quarantined=SimpleNamespace(remote=quarantined), lift=SimpleNamespace(remote=lift))
    monkeypatch.setattr(module, "registry_actor", lambda: actor)
    admin = RegistryAdmin(mirror, {}, {})
    assert await admin.quarantine() == [entry]
    assert await admin.lift("d") == entry
    with pytest.raises(NotFound):
        await admin.lift("other")
