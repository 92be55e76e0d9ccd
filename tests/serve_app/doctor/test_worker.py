"""The real child: it loads models as replicas do, and tells why it cannot."""

from contextlib import closing
from pathlib import Path

import pytest

from deployments.families.table import FAMILIES
from deployments.system.worker_process import WorkerProcess
from serve_app.config.config import RuntimeConfig
from serve_app.doctor.examination import WORKER
from serve_app.doctor.findings import Level
from serve_app.doctor.models import repository


@pytest.mark.slow
def test_the_child_loads_what_can_be_loaded_and_tells_why_the_rest_cannot(tmp_path: Path) -> None:
    from tests.support.tiny_models import save_image_model

    save_image_model(tmp_path / "models" / "image")
    save_image_model(tmp_path / "models" / "broken")
    (tmp_path / "models" / "broken" / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      garbage")
    config = RuntimeConfig(models=tmp_path / "models", cache=tmp_path / "cache")
    with closing(WorkerProcess(WORKER)) as child:
        found = {one.what: one for one in repository(config, FAMILIES, child)}
        assert child.ask({"device": True}, 60) in ("cpu", "cuda")
    assert found["model image"].level is Level.OK, found["model image"]
    assert found["model image"].said.startswith("image_classification, ")
    assert found["model broken"].level is Level.FAULT
