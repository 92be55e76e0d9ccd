"""A process outside of Serve has a name, and no socket."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ray.serve._private import constants

from deployments.replica.context import (
    ingress_socket,
    launcher_profile,
    leave_place,
    private_socket,
    replica_name,
    taken_place,
)
from deployments.replica.launcher_profile import LauncherProfile
from tests.support import PROJECT


def test_outside_of_serve_a_replica_is_named_by_its_process() -> None:
    assert replica_name() == f"pid-{os.getpid()}"


@pytest.mark.parametrize("program", ["/venv/bin/model-runtime-haproxy", ""])
def test_the_profile_is_found_where_the_launcher_started_ray(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    monkeypatch.setattr(constants, "RAY_SERVE_HAPROXY_BINARY_PATH", program)
    monkeypatch.setattr(constants, "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC", "/private/haproxy.cfg")
    assert launcher_profile() == (LauncherProfile(Path("/private")) if program else None)
    assert private_socket() is None
    assert ingress_socket() is None


TAKES = """
import sys
from pathlib import Path
from deployments.replica.context import taken_place
from deployments.replica.launcher_profile import LauncherProfile
from tests.support import PROJECT
print(taken_place(LauncherProfile(Path(sys.argv[1]))).name, flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_each_ingress_replica_has_a_place_of_its_own_until_it_ends_or_leaves_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TAKES, str(tmp_path)]
    with subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "ingress-0.sock\n"
        assert taken_place(LauncherProfile(tmp_path)).name == "ingress-1.sock"
        other.kill()
    place = taken_place(LauncherProfile(tmp_path))
    assert place.name == "ingress-0.sock"
    leave_place(place)
    assert taken_place(LauncherProfile(tmp_path)) == place
