"""What the tests of compiled image models share."""

from collections.abc import Iterator

import pytest

from deployments.engines.vision import compilation, openvino_cache, openvino_compile
from tests.support.compiled_models import Loads


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loads]:
    """Compiles in this process: a child takes seconds to import what is there already. Whether a compiled form is
    faster does not matter; nothing is reported to OpenVINO's makers."""
    monkeypatch.delattr("openvino_telemetry.Telemetry.init")
    monkeypatch.setattr(openvino_cache, "make_in_child", openvino_compile.make)
    monkeypatch.setattr(compilation, "WORTH_IT", 1e-9)
    load = Loads()
    yield load
    load.settle()
