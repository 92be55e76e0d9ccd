"""Which models are loaded before a replica takes requests."""

from pathlib import Path

import pytest

from deployments.replica.preload import fitting, to_preload
from deployments.repository.manifest import Manifest
from deployments.repository.model import Model, by_name
from deployments.residency.ledger import MIB, Ledger, Limit
from deployments.residency.residency import Residency
from tests.deployments.residency.fakes import Loader, PlayedThreads, model, use

FAMILY = "text_generation"


def found(name: str, family: str = FAMILY, warm_up: bool = False) -> Model:
    return Model(name, None, Path(), "d", family, manifest=Manifest(warm_up=warm_up))


def test_those_of_the_settings_come_first_then_those_to_be_warm_each_once(caplog: pytest.LogCaptureFixture) -> None:
    models = by_name([found("a"), found("b", warm_up=True), found("c"), found("other", "image", warm_up=True)])
    assert [one.name for one in to_preload(models, FAMILY, ("c", "missing", "b", "c"))] == ["c", "b"]
    assert "preload: no model 'missing'" in caplog.text


async def test_those_in_use_elsewhere_are_loaded_where_memory_is_free_and_nothing_is_evicted_for_them() -> None:
    residency = Residency(Ledger(Limit(100 * MIB)), Loader(), threads=PlayedThreads())
    await use(residency, model("here", 60))
    wanted = [model("here", 60), model("small", 10), model("large", 50), model("small", 10)]
    assert [one.name for one in fitting(wanted, residency)] == ["small"]
