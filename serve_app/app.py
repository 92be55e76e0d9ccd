"""`build` makes the Serve application: an ingress, and a deployment for each row of the table of families.

A deployment's version is made of what its replicas read when they start: a change of it replaces them, the new ones
first. All other settings are its `user_config`, which reaches them as they run.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import ray
from pydantic import ValidationError
from ray import serve
from ray.serve import Application
from ray.serve.config import DeploymentActorConfig
from ray.serve.exceptions import RayServeException

from deployments.contract.settings import LONGEST_REQUEST_S, IngressAutoscaling, mistakes, nearest
from deployments.families.table import FAMILIES
from deployments.metrics.aggregator import MetricsAggregator
from deployments.replica.family import Family, model_formats
from deployments.replica.model_replica import ReplicaOptions
from deployments.repository.families import ModelFormat
from serve_app.config.config import RuntimeConfig
from serve_app.dispatch.dispatcher import Route
from serve_app.dispatch.serve_internals import in_worker, keep_version
from serve_app.http.oip.requests import Signature
from serve_app.ingress import METRICS_AGGREGATOR, Ingress, refuse_incomplete
from serve_app.node import set_environment_until_exit
from serve_app.registry.actor import ModelRegistryActor
from serve_app.registry.mirror import MODEL_REGISTRY

SHARE_OF_A_GPU = 0.25
POLICIES = "serve_app.autoscaling:"  # By their names: Ray's dashboard cannot show a function.
EXCHANGES = 4096  # The ingress bounds what is under way: it counts calls, Serve would count exchanges.
REQUESTS = 1 << 20  # So that none waits in Serve, where nothing is known of keys, turns and deadlines.
SURGE_PERCENT = 25
"""Of a deployment's replicas, rounded up: so many new ones are started before old ones end. Each takes memory for its
models, and the CPUs and the share of a GPU that the scheduler sets aside."""
HEALTH_TIMEOUT_S = 10
"""After three times in a row without an answer, or with a problem, Serve replaces the replica. Not measured."""
LOGGING = {"encoding": "JSON", "enable_access_log": False}


def build(args: Mapping[str, Any] | RuntimeConfig) -> Application:
    """The application, for `serve run serve_app.app:build`, `serve deploy` and `serve.run(build(config))`.

    Raises RayServeException for mistakes: its message alone, one line for each, is what `serve status` shows.
    """
    try:
        config = RuntimeConfig.model_validate(args)
        if in_worker():
            refuse_incomplete(config.ingress)
        elif not ray.is_initialized():
            set_environment_until_exit()  # `serve run` starts a Ray of its own where there is none.
        return compose(config, FAMILIES)
    except ValidationError as invalid:
        raise RayServeException("\n".join(mistakes(invalid, "args"))) from None
    except (ValueError, RuntimeError) as refused:
        raise RayServeException(str(refused)) from None


def compose(config: RuntimeConfig, families: Sequence[Family]) -> Application:
    """The ingress and one deployment per family. Raises ValueError for settings of a family that is not among them."""
    names = [family.name for family in families]
    for name in config.families.keys() - set(names):
        raise ValueError(f"families: unknown family {name!r}{nearest(name, names)}")
    models, formats = config.repository(), model_formats(families)
    gpu_share = SHARE_OF_A_GPU if ray.is_initialized() and ray.cluster_resources().get("GPU", 0) else 0.0
    handles: dict[str, Application] = {}
    routes = []
    for family in families:
        settings = config.settings(family.name)
        num_gpus = gpu_share if settings.num_gpus is None else settings.num_gpus
        settings = settings.model_copy(update={"num_gpus": num_gpus})
        options = ReplicaOptions(family, models, formats, settings, config.cache, config.sources, config.link_targets)
        handles[family.name] = _deployment(options).bind(options)
        routes.append(Route(family.name, family.request, family.name in formats, settings, family.work))
    forms = [family.form for family in families if family.form]
    registry = _registry(config, models, formats, {family.name: _name(family) for family in families})
    signatures = {family.name: Signature(family.request, family.result) for family in families}
    return _ingress(config, registry, routes).bind(
        config.ingress, tuple(routes), handles, forms, signatures, config.grpc_address, config.tls_files
    )


def _name(family: Family) -> str:
    """The name of its deployment: that of its class without `Replica`."""
    return family.deployment.rpartition(":")[2].removesuffix("Replica")


def _registry(
    config: RuntimeConfig, models: Path | str, formats: Mapping[str, ModelFormat], deployments: Mapping[str, str]
) -> DeploymentActorConfig:
    # Ray's dashboard shows the arguments: they have to be JSON.
    as_json = {family: form.model_dump(mode="json") for family, form in formats.items()}
    return DeploymentActorConfig(
        name=MODEL_REGISTRY,
        actor_class=ray.remote(ModelRegistryActor),
        init_args=(
            str(models),
            as_json,
            list(config.sources),
            deployments,
            [str(target) for target in config.link_targets],
            config.quarantine_s,
        ),
        actor_options={"num_cpus": 0},
    )


def _version(*read_at_start: object) -> str:
    """Serve replaces the replicas of a deployment whose version is another one."""
    parts = json.dumps((version("model-runtime"), *read_at_start), default=str, sort_keys=True)
    return hashlib.sha256(parts.encode()).hexdigest()[:16]


def _deployment(options: ReplicaOptions) -> serve.Deployment:
    family, settings = options.family, options.settings
    read_at_start = settings.model_dump(include=set(settings.READ_AT_START))
    deployment = cast(serve.Deployment, serve.deployment(family.replica)).options(
        name=_name(family),
        ray_actor_options=settings.model_dump(include={"num_cpus", "num_gpus", "accelerator_type"}, exclude_none=True),
        autoscaling_config=_autoscaling(
            settings.autoscaling, "ReplicasForWork", target_queue_s=settings.autoscaling.target_queue_s
        ),
        request_router_config={"request_routing_stats_period_s": 1.0},
        max_ongoing_requests=EXCHANGES,
        user_config=options.user_config,
        version=_version(family.deployment, read_at_start, options.cache, options.link_targets),
        **_LIFE,
    )
    return keep_version(deployment)


def _ingress(config: RuntimeConfig, registry: DeploymentActorConfig, routes: Sequence[Route]) -> serve.Deployment:
    metrics = DeploymentActorConfig(
        name=METRICS_AGGREGATOR, actor_class=ray.remote(MetricsAggregator), actor_options={"num_cpus": 0}
    )
    read_at_start = (
        config.ingress.model_dump(mode="json", exclude={"autoscaling"}),
        registry.init_args,
        (config.grpc_address, config.tls_files),
        [route.family for route in routes],
    )
    deployment = cast(serve.Deployment, serve.deployment(serve.ingress()(Ingress))).options(
        name="Ingress",
        ray_actor_options={"num_cpus": config.ingress.num_cpus},
        autoscaling_config=_autoscaling(config.ingress.autoscaling, "replicas_for_calls"),
        max_ongoing_requests=REQUESTS,
        user_config={
            "access": config.access.model_dump(mode="json"),
            "settings": {route.family: route.settings.model_dump(mode="json") for route in routes},
        },
        version=_version(*read_at_start),
        deployment_actors=[metrics, registry],
        **_LIFE,
    )
    return keep_version(deployment)


_LIFE: Mapping[str, Any] = {
    "health_check_period_s": 1,
    "health_check_timeout_s": HEALTH_TIMEOUT_S,
    "graceful_shutdown_timeout_s": LONGEST_REQUEST_S,
    "max_surge_percent": SURGE_PERCENT,
    "logging_config": LOGGING,
    "_internal": True,
}


def _autoscaling(autoscaling: IngressAutoscaling, policy: str, **arguments: float) -> dict[str, Any]:
    # Serve averages over this time: longer than a delay, it would make the delay longer.
    look_back_s = max(min(autoscaling.upscale_delay_s, autoscaling.downscale_delay_s, 30.0) / 2, 1.0)
    return autoscaling.model_dump(exclude={"target_queue_s"}) | {
        "look_back_period_s": look_back_s,
        "metrics_interval_s": look_back_s / 3,
        "policy": {"policy_function": POLICIES + policy, "policy_kwargs": arguments},
    }
