"""All checks in their order, each finding as soon as it is there."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

from deployments.families.table import FAMILIES
from deployments.replica.family import Family
from deployments.system.worker_process import RequestFailed, WorkerFailed, WorkerProcess
from serve_app.check import mistakes_of
from serve_app.config.config import RuntimeConfig
from serve_app.config.serve_file import read_configs
from serve_app.doctor.findings import Finding, fault, ok
from serve_app.doctor.machine import gpus, machine, ports
from serve_app.doctor.models import Child, repository

WORKER = "serve_app.doctor.worker"
SHORT_S = 120.0
OF_SETTINGS = ("tls_cert", "tls_key", "link_targets", "families.")
"""How mistakes begin that no other check here finds with more detail."""


def examine(file: Path | None, models: Path | str | None, port: int) -> Iterator[Finding]:
    """`file`: a configuration, or a file for `serve deploy`. `models`: a repository in place of the configured one."""
    try:
        configs = read_configs(file) if file else [RuntimeConfig()]
    except ValueError as wrong:
        for line in str(wrong).splitlines():
            yield fault("configuration", line, "change the file; `model-runtime config` prints every setting there is")
        return
    yield ok("configuration", str(file) if file else "the defaults")
    with closing(WorkerProcess(WORKER)) as child:
        for config in configs:
            used = config.model_copy(update={"models": models}) if models else config
            yield from examine_runtime(used, port, FAMILIES, child)


def examine_runtime(config: RuntimeConfig, port: int, families: Sequence[Family], child: Child) -> Iterator[Finding]:
    names = ("model-runtime", "ray", "torch", "transformers", "openvino")
    yield ok("versions", ", ".join(f"{name} {version(name)}" for name in names))
    for line in mistakes_of(config, families):
        if line.startswith(OF_SETTINGS):
            yield fault("configuration", line, "change the setting, or the file or folder that it names")
    yield from machine(config, families)
    yield from ports(config, port)
    yield gpus(_device(child))
    yield ray_starts(child)
    yield from repository(config, families, child)


def _device(child: Child) -> str:
    try:
        return str(child.ask({"device": True}, SHORT_S))
    except (RequestFailed, WorkerFailed):
        return "cpu"


def ray_starts(child: Child) -> Finding:
    try:
        return ok("ray", f"{child.ask({'ray': True}, SHORT_S)} starts and runs a task")
    except (RequestFailed, WorkerFailed) as failed:
        cure = "read /tmp/ray/session_latest/logs; Ray needs some memory, room in /tmp and /dev/shm, and loopback"
        return fault("ray", f"does not start: {failed}", cure)
