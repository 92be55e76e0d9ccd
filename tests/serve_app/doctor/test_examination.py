"""The checks together: a wrong configuration, and the order of the others."""

from pathlib import Path

import pytest

from deployments.families.table import FAMILIES
from deployments.system.worker_process import WorkerFailed
from serve_app.config.config import RuntimeConfig
from serve_app.doctor.examination import examine, examine_runtime, ray_starts
from serve_app.doctor.findings import Level
from tests.serve_app.doctor.test_models import Child
from tests.support.ports import free_port


def test_each_mistake_of_a_configuration_is_a_fault_and_nothing_else_is_looked_at(tmp_path: Path) -> None:
    file = tmp_path / "runtime.yaml"
    file.write_text("famlies: {}")
    found = list(examine(file, None, 8000))
    assert [(one.what, one.level) for one in found] == [("configuration", Level.FAULT)]
    assert "did you mean" in found[0].said or "famlies" in found[0].said


def test_every_part_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    config = RuntimeConfig(models=tmp_path / "models", cache=tmp_path / "cache")
    found = [one.what for one in examine_runtime(config, free_port(), FAMILIES, Child("cpu", "2.60.0"))]
    assert found == ["versions", "processors", "memory", "cache", "haproxy", "port", "gpu", "ray", "repository"]


def test_a_setting_that_leads_nowhere_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    config = RuntimeConfig(models=tmp_path / "models", cache=tmp_path / "cache", link_targets=(tmp_path / "none",))
    found = [one for one in examine_runtime(config, free_port(), FAMILIES, Child("cpu", "2.60.0")) if one.cure]
    assert [one.said for one in found if one.what == "configuration"] == [
        f"link_targets: there is no folder {str(tmp_path / 'none')!r}"
    ]


def test_a_ray_that_does_not_start_is_a_fault() -> None:
    finding = ray_starts(Child(WorkerFailed("timeout", "120 s")))
    assert (finding.level, "logs" in finding.cure) == (Level.FAULT, True)


@pytest.mark.slow
def test_a_file_for_serve_deploy_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = f"{{models: {tmp_path / 'none'}, cache: {tmp_path / 'cache'}}}"
    file = tmp_path / "serve.yaml"
    application = f"{{import_path: 'serve_app.app:build', args: {args}}}"
    file.write_text(f"http_options: {{host: 127.0.0.1}}\napplications: [{application}]")
    monkeypatch.setattr("serve_app.doctor.examination.WorkerProcess", lambda module: Closing("cpu", "2.60.0"))
    found = {one.what: one.level for one in examine(file, None, free_port())}
    assert (found["configuration"], found["repository"]) == (Level.OK, Level.FAULT)


class Closing(Child):
    def close(self) -> None:
        pass
