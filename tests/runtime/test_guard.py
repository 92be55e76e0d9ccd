"""The guard on the running runtime: who listens where, keys that come and go, clients that leave."""

import asyncio
import ipaddress
import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from urllib.parse import urlsplit

import grpc
import httpx
import psutil
import pytest
from ray import serve

from deployments.replica.calls import CALLS_UNDER_WAY
from serve_app.access.api_keys import AccessSettings, KeySettings, new_key
from serve_app.dispatch.broadcast import broadcast
from tests.support.echo import Echo, build
from tests.support.running import Running, replica_pids
from tests.support.until import wait_until

ECHO = {"Echo": {"model_id": "any", "text": "x"}}
SLOTS = 64


def listeners() -> Iterator[tuple[str, str, int]]:
    """(process, address, port) of every TCP socket that this process and all it started listen on."""
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        try:
            for connection in process.net_connections("inet"):
                if connection.status == psutil.CONN_LISTEN:
                    yield process.name(), connection.laddr.ip, connection.laddr.port
        except psutil.Error:
            continue


def is_loopback(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_loopback


def refuses_without_rays_token(port: int) -> bool:
    """Ray Serve's own channel between replicas listens on every address, and has no setting for it."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            channel.unary_unary("/ray.serve.ASGIService/HandleRequest")(b"", timeout=10)
        except grpc.RpcError as refused:
            return refused.code() is grpc.StatusCode.UNAUTHENTICATED
    return False


def test_every_listener_is_on_loopback_or_asks_for_rays_token(runtime: Running) -> None:
    assert httpx.post(f"{runtime.url}/infer", json=ECHO).status_code == 200
    found = sorted(set(listeners()))
    rules = {
        f"{process} {address}:{port}": "loopback"
        if is_loopback(address)
        else ("Ray's token" if "ServeReplica" in process and refuses_without_rays_token(port) else "UNGUARDED")
        for process, address, port in found
    }
    print(json.dumps(rules, indent=1))
    assert any("haproxy" in process for process, *_ in found)
    assert [listener for listener, rule in rules.items() if rule == "UNGUARDED"] == []


def test_keys_come_and_go_and_no_replica_is_started_anew(runtime: Running) -> None:
    key, sha256 = new_key()
    keys = AccessSettings(keys={"team": KeySettings(sha256=sha256)})
    config = runtime.config
    deployments = ("Ingress", "TextGeneration", "ImageClassification")
    pids = [replica_pids("model-runtime", name) for name in deployments]
    url = f"{runtime.url}/infer"
    try:
        serve.run(build(config.model_copy(update={"access": keys})), name="model-runtime")
        wait_until(lambda: httpx.post(url, json=ECHO).status_code == 401)
        assert httpx.post(url, json=ECHO, headers={"authorization": f"Bearer {key}"}).status_code == 200
        assert httpx.get(f"{runtime.url}/healthz").status_code == 200
    finally:
        serve.run(build(config), name="model-runtime")
    wait_until(lambda: httpx.post(url, json=ECHO).status_code == 200)
    assert pids == [
        replica_pids("model-runtime", name) for name in ("Ingress", "TextGeneration", "ImageClassification")
    ]


def calls_under_way() -> float:
    """In all of Echo's replicas, by their own count."""
    handle = serve.get_deployment_handle("Echo", "model-runtime")
    return sum(float(stats[CALLS_UNDER_WAY]) for stats in asyncio.run(broadcast(handle, "record_autoscaling_stats")))


def test_clients_that_leave_free_their_slots_and_their_places(runtime: Running) -> None:
    """Three times as many calls as there are slots, none of which would ever end."""
    address = urlsplit(runtime.url)
    body = json.dumps({"Echo": {"model_id": "any", "text": "endless"}}).encode()
    head = b"POST /infer HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    replicas = len(replica_pids("model-runtime", "Echo"))
    with ExitStack() as connections:
        for _ in range(3 * SLOTS * replicas):
            connection = socket.create_connection((address.hostname or "", address.port or 0))
            connections.enter_context(connection).sendall(head % len(body) + body)
        wait_until(lambda: calls_under_way() >= SLOTS * replicas)
    # Long before their deadline. Those that waited for a slot are sent to nobody.
    wait_until(lambda: calls_under_way() == 0, timeout_s=30)
    assert httpx.post(f"{runtime.url}/infer", json=ECHO, timeout=30).status_code == 200


def test_a_handles_caller_that_gives_up_takes_its_request_back(runtime: Running) -> None:
    response = runtime.handle.infer.remote(Echo(model_id="any", text="endless"))
    wait_until(lambda: calls_under_way() == 1)
    response.cancel()
    wait_until(lambda: calls_under_way() == 0, timeout_s=30)


def serves_port() -> int:
    """Serve's own server in the ingress replica, which HAProxy stands in front of and passes by."""
    low, high = (int(os.environ[f"RAY_SERVE_DIRECT_INGRESS_{end}_HTTP_PORT"]) for end in ("MIN", "MAX"))
    return next(port for _, _, port in listeners() if low <= port <= high)


@pytest.mark.parametrize("entrance", ["HAProxy", "Serve"])
def test_no_header_switches_serves_protection_off(runtime: Running, entrance: str) -> None:
    port = urlsplit(runtime.url).port or 0 if entrance == "HAProxy" else serves_port()
    slow = {"Echo": {"model_id": "any", "text": "slow"}}
    switches = {"x-request-timeout-seconds": "0.01", "serve_multiplexed_model_id": "other", "x-session-id": "a"}
    reply = httpx.post(f"http://127.0.0.1:{port}/infer", json=slow, headers=switches, timeout=30)
    assert reply.json() == {"EchoResult": {"text": "slow"}}
    body = json.dumps({"Echo": {"model_id": "any", "text": "endless"}}).encode()
    head = b"POST /infer HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nx-request-disconnect-disabled: ?1\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head % len(body) + body)
        wait_until(lambda: calls_under_way() == 1)
    wait_until(lambda: calls_under_way() == 0, timeout_s=30)


def test_a_deadline_that_passes_is_told_while_the_work_would_still_go_on(runtime: Running) -> None:
    endless = {"Echo": {"model_id": "any", "text": "endless"}}
    reply = httpx.post(f"{runtime.url}/infer", json=endless, headers={"x-deadline-ms": "200"}, timeout=30)
    assert reply.json()["Error"]["code"] == "deadline_exceeded"
    wait_until(lambda: calls_under_way() == 0, timeout_s=30)
