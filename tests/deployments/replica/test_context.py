"""A process outside of Serve has a name, and no socket."""

import os
from pathlib import Path

import pytest
from ray.serve._private import constants

from deployments.replica.context import launcher_profile, private_socket, replica_name
from deployments.replica.launcher_profile import LauncherProfile


def test_outside_of_serve_a_replica_is_named_by_its_process() -> None:
    assert replica_name() == f"pid-{os.getpid()}"


@pytest.mark.parametrize("enabled", [True, False])
def test_the_profile_is_found_where_serve_runs_with_haproxy(monkeypatch: pytest.MonkeyPatch, enabled: bool) -> None:
    monkeypatch.setattr(constants, "RAY_SERVE_ENABLE_HA_PROXY", enabled)
    monkeypatch.setattr(constants, "RAY_SERVE_HAPROXY_BINARY_PATH", "/venv/bin/model-runtime-haproxy")
    monkeypatch.setattr(constants, "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC", "/private/haproxy.cfg")
    assert launcher_profile() == (LauncherProfile(Path("/private")) if enabled else None)
    assert private_socket() is None
