import pytest

from deployments.metrics import aggregator, meter, requests
from tests.support.clock import Clock


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.now = 1000.0
    return clock


class Silent:
    """In place of Ray's metrics, which need a Ray. tests/runtime reads those at Ray's own endpoint."""

    def __init__(self, *args: object, **options: object) -> None: ...
    def inc(self, *args: object) -> None: ...
    def set(self, *args: object) -> None: ...
    def observe(self, *args: object) -> None: ...


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (requests, meter):
        monkeypatch.setattr(module, "Histogram", Silent)
    for name in ("Counter", "Gauge"):
        monkeypatch.setattr(aggregator, name, Silent)
