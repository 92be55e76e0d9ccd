"""An engine that asks before it grows is recognised by its method."""

from collections.abc import Callable

from deployments.residency.engine import GrowingEngine
from tests.deployments.residency.fakes import FakeEngine


class Growing(FakeEngine):
    def ask_before_growing(self, grant: Callable[[int], bool]) -> None:
        """Nothing."""


def test_an_engine_grows_by_asking_if_it_can_ask() -> None:
    assert isinstance(Growing(1), GrowingEngine)
    assert not isinstance(FakeEngine(1), GrowingEngine)
