"""What HAProxy is told. tests/hostile runs it."""

from pathlib import Path

from deployments.contract.settings import Autoscaling, FamilySettings
from deployments.replica.launcher_profile import LauncherProfile
from serve_app.config.config import IngressSettings, RuntimeConfig
from serve_app.front.configuration import configuration, places
from tests.support.running import CONFIG


def written(folder: Path, config: RuntimeConfig = CONFIG) -> str:
    return configuration(config, LauncherProfile(folder), "fd@7")


def test_there_is_a_place_for_each_ingress_replica_and_for_as_many_that_end(tmp_path: Path) -> None:
    three = IngressSettings(autoscaling=Autoscaling(max_replicas=3))
    config = RuntimeConfig(ingress=three)
    assert places(config) == 6
    assert written(tmp_path, config).count(" check ") == 6
    assert f"unix@{tmp_path}/ingress-5.sock check" in written(tmp_path, config)


def test_haproxy_waits_longer_than_the_longest_deadline_and_knows_the_body_limit(tmp_path: Path) -> None:
    assert "timeout server 3615s\n" in written(tmp_path, RuntimeConfig())  # whatever the file may say later
    patient = RuntimeConfig().model_copy(update={"families": {"f": FamilySettings(max_deadline_s=6000)}})
    assert "timeout server 6015s\n" in written(tmp_path, patient)
    assert "req.hdr_val(content-length) gt 1048576" in written(tmp_path)


def test_its_only_listener_is_the_one_that_it_is_given(tmp_path: Path) -> None:
    lines = [line.strip() for line in written(tmp_path).splitlines()]
    assert [line for line in lines if line.startswith(("bind", "stats", "log"))] == ["bind fd@7"]
