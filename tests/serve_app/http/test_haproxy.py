"""The environment with which Ray starts HAProxy. tests/runtime and tests/cluster run on it."""

import ctypes
import os
import random
import shutil
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from deployments.contract.settings import FamilySettings
from serve_app.config.config import IngressSettings, RuntimeConfig
from serve_app.http import haproxy, stand_in
from serve_app.http.haproxy import PORT_RANGE, front_environment, haproxy_environment, missing_haproxy

CONFIG = RuntimeConfig(ingress=IngressSettings(max_body_mb=1))


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def which(name: str, path: str | None = None) -> str:
        return f"/bin/{name}"

    monkeypatch.setattr(shutil, "which", which)
    monkeypatch.setattr(haproxy, "haproxy_binary", lambda: "/bin/haproxy")


def first_port(folder: Path) -> int:
    return int(haproxy_environment(folder, CONFIG)["RAY_SERVE_FALLBACK_PROXY_HTTP_PORT"])


@pytest.mark.usefixtures("installed")
def test_the_ports_of_a_runtime_do_not_overlap(tmp_path: Path) -> None:
    environment = haproxy_environment(tmp_path, CONFIG)
    ingress = [int(environment[f"RAY_SERVE_DIRECT_INGRESS_{name}_PORT"]) for name in ("MIN_HTTP", "MAX_HTTP")]
    grpc = [int(environment[f"RAY_SERVE_DIRECT_INGRESS_{name}_PORT"]) for name in ("MIN_GRPC", "MAX_GRPC")]
    names = ("FALLBACK_PROXY_HTTP", "FALLBACK_PROXY_GRPC", "HAPROXY_METRICS", "HAPROXY_STATS")
    own = {int(environment[f"RAY_SERVE_{name}_PORT"]) for name in names}
    assert len(own) == len(names)
    assert max(own) < ingress[0] < ingress[1] < grpc[0] < grpc[1] == min(own) + PORT_RANGE - 1


@pytest.mark.usefixtures("installed")
def test_two_runtimes_have_other_ports_though_neither_has_opened_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node opens them when Serve starts, which may be hours later."""
    first = first_port(tmp_path)
    free, drawn = random.randrange, [first]

    def draw(start: int, stop: int, step: int) -> int:
        return drawn.pop() if drawn else free(start, stop, step)

    monkeypatch.setattr(random, "randrange", draw)
    assert first_port(tmp_path) != first
    assert not drawn


@pytest.mark.usefixtures("installed")
def test_haproxy_waits_longer_than_the_longest_deadline_and_knows_the_body_limit(tmp_path: Path) -> None:
    environment = haproxy_environment(tmp_path, CONFIG)
    assert environment["RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S"] == "75"
    patient = CONFIG.model_copy(update={"families": {"f": FamilySettings(max_deadline_s=600)}})
    assert haproxy_environment(tmp_path, patient)["RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S"] == "615"
    assert (tmp_path / "max-body-bytes").read_text() == str(2**20)


def test_in_front_of_sockets_serve_listens_nowhere(tmp_path: Path) -> None:
    environment = front_environment(tmp_path)
    assert environment["RAY_SERVE_ENABLE_DIRECT_INGRESS"] == "0"
    assert environment["RAY_SERVE_ENABLE_HA_PROXY"] == "0"
    assert not any("PORT" in name for name in environment)


def test_the_variable_that_names_our_own_program_leads_to_the_real_one(monkeypatch: pytest.MonkeyPatch) -> None:
    variable = "RAY_SERVE_HAPROXY_BINARY_PATH"
    monkeypatch.delenv(variable, raising=False)
    real = haproxy.haproxy_binary()
    monkeypatch.setenv(variable, "/anywhere/model-runtime-haproxy")
    assert haproxy.haproxy_binary() == real
    assert os.environ[variable] == "/anywhere/model-runtime-haproxy"
    monkeypatch.setenv(variable, "/opt/haproxy")
    assert haproxy.haproxy_binary() == "/opt/haproxy"


def test_without_haproxy_nothing_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(haproxy, "haproxy_binary", lambda: None)
    assert haproxy_environment(tmp_path, CONFIG) == {}
    assert "HAProxy is missing (pip install it)" in missing_haproxy("pip install it")


@pytest.mark.usefixtures("installed")
def test_a_haproxy_that_serve_runs_has_a_stand_in_and_one_that_only_checks_a_file_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, started = tmp_path / "haproxy.cfg", list[tuple[object, ...]]()
    file.write_text("global\n")
    monkeypatch.setattr(stand_in, "start", lambda *given: started.append(given))
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Mock())  # It would bind this process to its parent.
    monkeypatch.setattr(os, "execv", lambda *_: None)
    for options in (["-c"], ["-db", "-dR"]):
        monkeypatch.setattr(sys, "argv", ["model-runtime-haproxy", *options, "-f", str(file)])
        haproxy.main()
    assert started == [(file, "/bin/haproxy", ["-db", "-dR"])]
