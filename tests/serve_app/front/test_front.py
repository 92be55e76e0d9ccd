"""HAProxy in front of sockets: started again when it is killed, and repeating what a replica did not answer."""

import socket
import ssl
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from deployments.replica.launcher_profile import LauncherProfile
from serve_app.config.config import IngressSettings, RuntimeConfig
from serve_app.front.front import SOON_S, Front, listening
from serve_app.http.haproxy import BUFFER_BYTES, haproxy_binary
from tests.serve_app.front.replica import Replica
from tests.serve_app.front.test_tls import CERTIFICATE, KEY
from tests.support.ports import free_port
from tests.support.until import wait_until

pytestmark = pytest.mark.skipif(haproxy_binary() is None, reason="there is no HAProxy")

CONFIG = RuntimeConfig(ingress=IngressSettings(max_body_mb=1))


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are too deep for a socket's name
        yield Path(name)


@contextmanager
def front_of(folder: Path, *broken: bool) -> Iterator[tuple[Front, str, list[Replica]]]:
    """HAProxy in front of so many replicas, once it knows them."""
    replicas = [Replica(LauncherProfile(folder).ingress_socket(place), breaks) for place, breaks in enumerate(broken)]
    port = free_port()
    front = Front(CONFIG, port, folder)
    try:
        front.start()
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: httpx.get(f"{url}/healthz").is_success == bool(broken), "HAProxy knows its replicas")
        yield front, url, replicas
    finally:
        front.close()
        for replica in replicas:
            replica.close()


def refused(url: str) -> bool:
    try:
        httpx.get(url, timeout=1)
    except httpx.ConnectError:
        return True
    except httpx.TransportError:
        pass
    return False


def test_a_taken_port_is_refused_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"127\.0\.0\.1:{port} cannot be had .*choose another with --port"):
            listening("127.0.0.1", port)


def test_without_a_replica_callers_get_a_retryable_error_of_the_contract(folder: Path) -> None:
    with front_of(folder) as (_, url, _):
        reply = httpx.post(f"{url}/infer", json={})
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
        assert reply.json()["Error"]["retryable"] is True


@pytest.mark.parametrize(("replicas", "reply"), [([False], (200, "success")), ([], (503, "Service Unavailable"))])
def test_the_health_path_of_serves_own_proxies_is_answered_as_they_do(
    folder: Path, replicas: list[bool], reply: tuple[int, str]
) -> None:
    with front_of(folder, *replicas) as (_, url, _):
        answered = httpx.get(f"{url}/-/healthz")
        assert (answered.status_code, answered.text) == reply
        assert answered.headers["content-type"] == "text/plain"


def test_a_connection_that_comes_while_haproxy_is_dead_is_answered_by_the_next_one(folder: Path) -> None:
    with front_of(folder, False) as (front, url, _), ThreadPoolExecutor() as callers:
        assert front.keep_running() is None
        killed = front.pid
        front.kill()
        assert not front.running
        waiting = callers.submit(httpx.post, f"{url}/infer", content=b"hi", timeout=30)
        said = wait_until(front.keep_running, timeout_s=10 * SOON_S)
        assert said == "HAProxy ended (signal 9) and is started again"
        assert front.pid != killed
        assert waiting.result().text == "ingress-0"


def test_a_request_whose_replica_ends_without_an_answer_is_sent_to_another_one(folder: Path) -> None:
    """With the id that it had."""
    with front_of(folder, True, False) as (_, url, (broken, sound)):
        while not broken.received:
            assert httpx.post(f"{url}/infer", content=b"x" * (BUFFER_BYTES // 2)).text == "ingress-1"
        ids = [
            [line for line in requests[-1].split(b"\r\n") if line.startswith(b"x-request-id")]
            for requests in (broken.received, sound.received)
        ]
        assert ids[0] == ids[1]
        assert len(ids[0]) == 1


def test_a_request_beyond_the_buffer_is_not_repeated_but_may_be_by_its_caller(folder: Path) -> None:
    with front_of(folder, True) as (_, url, _):
        reply = httpx.post(f"{url}/infer", content=b"x" * (4 * BUFFER_BYTES), timeout=30)
        assert reply.status_code in (502, 503)
        assert reply.json()["Error"]["retryable"] is True


def test_with_a_certificate_it_speaks_https_alone(folder: Path) -> None:
    replica, port = Replica(LauncherProfile(folder).ingress_socket(0)), free_port()
    front = Front(CONFIG.model_copy(update={"tls_cert": CERTIFICATE, "tls_key": KEY}), port, folder)
    trusting = ssl.create_default_context(cafile=str(CERTIFICATE))
    try:
        front.start()
        url = f"https://127.0.0.1:{port}"
        wait_until(lambda: httpx.get(f"{url}/healthz", verify=trusting).is_success, "HAProxy knows its replica")
        assert httpx.post(f"{url}/infer", content=b"hi", verify=trusting).text == "ingress-0"
        assert (folder / "tls.pem").stat().st_mode & 0o777 == 0o600
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{port}/healthz")
    finally:
        front.close()
        replica.close()


def test_requests_under_way_are_answered_before_the_end(folder: Path) -> None:
    with front_of(folder, False) as (front, url, (replica,)), ThreadPoolExecutor() as callers:
        replica.answers.clear()
        under_way = callers.submit(httpx.post, f"{url}/infer", content=b"hi", timeout=30)
        assert replica.asked.wait(30)
        front.drain()
        wait_until(lambda: refused(url), "nothing listens any more")
        replica.answers.set()
        assert under_way.result().text == "ingress-0"
        wait_until(lambda: not front.running)
