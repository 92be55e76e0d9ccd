"""What becomes of the HAProxy configuration that Ray Serve generates. tests/hostile runs HAProxy with it."""

import re
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.replica.launcher_profile import LauncherProfile
from serve_app.http.haproxy_config import adapted

SERVER = "    server SERVE_REPLICA_app-Ingress-{} 127.0.0.1:30001 check observe layer4\n"
DEFAULTS = "global\n    log /dev/log\ndefaults\n    mode http\nfrontend http_frontend\n    bind *:8000\n"
METRICS, STATS = "frontend prometheus\n    bind :8001\n    mode http\n", "listen stats\n  bind *:8002\n  stats enable\n"


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are too deep for a socket's name
        (Path(name) / "node").mkdir()
        yield Path(name)


def rewritten(folder: Path, configuration: str) -> str:
    return adapted(configuration, folder / "node", LauncherProfile(folder))


def test_haproxy_uses_the_sockets_that_exist(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "abc123.sock"))
        _, ours, other = rewritten(folder, SERVER.format("abc123") + SERVER.format("xyz789")).splitlines()
    assert f"unix@{folder}/abc123.sock check observe layer4 addr 127.0.0.1 port 30001" in ours
    assert other == SERVER.format("xyz789").rstrip()


@pytest.mark.parametrize("host", ["*", "127.0.0.1", "10.0.0.7"])
def test_requests_come_in_where_serve_was_told_and_all_else_on_loopback(folder: Path, host: str) -> None:
    configuration = rewritten(folder, METRICS + DEFAULTS.replace("*", host) + STATS)
    assert re.findall("bind (.+)", configuration) == ["127.0.0.1:8001", f"{host}:8000", "127.0.0.1:8002"]


def test_requests_are_not_logged(folder: Path) -> None:
    assert "log /dev/log" not in rewritten(folder, DEFAULTS)


def test_the_replies_of_haproxy_are_errors_of_the_contract(folder: Path) -> None:
    configuration = rewritten(folder, DEFAULTS)
    assert f"errorfile 503 {folder}/node/503.http" in configuration
    head, body = (folder / "node" / "503.http").read_text().split("\n\n")
    assert head.startswith("HTTP/1.1 503 ")
    assert '{"Error": {"message": "no ingress replica answers", "code": "unavailable"' in body


@pytest.mark.parametrize(("rule", "code"), [("    use_backend app if is_app\n", "not_found"), ("", "unavailable")])
def test_a_haproxy_that_knows_no_application_yet_says_to_try_again(folder: Path, rule: str, code: str) -> None:
    comment = "    # and static use_backend selection below).\n"  # Serve writes it in either case.
    otherwise = "    http-request return status 404 content-type text/plain lf-string \"Path '%[path]' not found.\"\n"
    (reply,) = rewritten(folder, comment + rule + otherwise).splitlines()[-1:]
    assert f'\\"code\\": \\"{code}\\"' in reply


def test_the_body_limit_is_that_of_the_launcher(folder: Path) -> None:
    assert "payload_too_large" not in rewritten(folder, DEFAULTS)
    LauncherProfile(folder).max_body_file.write_text("1048576")
    assert "req.hdr_val(content-length) gt 1048576" in rewritten(folder, DEFAULTS)


def test_a_configuration_is_rewritten_once(folder: Path) -> None:
    once = rewritten(folder, DEFAULTS)
    assert rewritten(folder, once) == once


def test_an_ingress_below_a_route_prefix_is_told_so_and_clients_cannot_say_it(folder: Path) -> None:
    backends = "    acl is_{0} path_beg {1}\n    acl is_{0} path {1}\n"
    routes = backends.format("llm", "/llm") + backends.format("root", "/")
    configuration = rewritten(folder, DEFAULTS + routes + "backend llm\n    log global\nbackend root\n    log global\n")
    assert "backend llm\n    http-request set-header x-model-runtime-prefix /llm\n" in configuration
    assert "backend root\n    http-request" not in configuration
    assert "    http-request del-header x-model-runtime-prefix\n" in configuration.split("acl is_llm")[0]
