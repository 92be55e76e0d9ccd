"""The child that loads models and starts Ray on trial. It may end without an answer: the parent reports that.

A request is {"load": name, "config": JSON}, {"device": true} or {"ray": true}.
"""

import asyncio
import time
from pkgutil import resolve_name
from typing import Any, cast

from deployments.families.table import FAMILIES
from deployments.replica.family import model_formats
from deployments.replica.model_replica import ModelReplica, ReplicaOptions
from deployments.system.worker_process import Report, serve
from serve_app.config.config import RuntimeConfig

LOAD_TIMEOUT_S = 600.0
_runner = asyncio.Runner()
_replicas: dict[str, ModelReplica[Any, Any]] = {}


def answer(request: Any, report: Report) -> object:
    if "load" in request:
        config = RuntimeConfig.model_validate_json(request["config"])
        return _runner.run(_load(config, request["load"], report))
    if "ray" in request:
        return _ray()
    device: str = resolve_name("deployments.engines.device:default_device")()  # which imports torch
    return device


async def _load(config: RuntimeConfig, name: str, report: Report) -> dict[str, object]:
    """How the model's load went: as a request's load does, its golden examples included. It is unloaded afterwards."""
    formats = model_formats(FAMILIES)
    report("reading the repository")
    options = [
        ReplicaOptions(
            family,
            config.repository(),
            formats,
            config.settings(family.name).model_copy(update={"num_gpus": 0.0}),
            config.cache,
            config.sources,
            config.link_targets,
        )
        for family in FAMILIES
        if family.name in formats
    ]
    model = options[0].repository().models()[name]
    own = next(one for one in options if one.family.name == model.family)
    if own.family.name not in _replicas:
        report("importing its family's libraries")
        made = cast("type[ModelReplica[Any, Any]]", own.family.replica)
        _replicas[own.family.name] = made(own)
    replica = _replicas[own.family.name]
    report("loading it")
    started = time.monotonic()
    error = await replica.load_model(model, LOAD_TIMEOUT_S)
    taken_s = time.monotonic() - started
    status = next((one for one in (await replica.replica_status()).models if one.name == model.name), None)
    await replica.unload_model(model)
    return {
        "error": None if error is None else {"code": error.code, "message": error.message},
        "seconds": taken_s,
        "bytes": status.bytes if status else 0,
        "notes": list(status.notes) if status else [],
    }


def _ray() -> str:
    """Starts Ray as `model-runtime serve` does, has it run a task, and stops it. Its version."""
    import logging

    import ray

    from serve_app.local_ray import init_on_loopback

    init_on_loopback(num_cpus=1, log_to_driver=False, logging_level=logging.ERROR)
    try:
        return str(ray.get(ray.remote(lambda: ray.__version__).remote(), timeout=60))
    finally:
        ray.shutdown()


if __name__ == "__main__":
    serve(answer)
