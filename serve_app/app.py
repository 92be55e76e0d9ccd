"""The composition: one table of families, and `build`, which makes the Serve application of it."""

import hashlib
import sys
import uuid
from typing import Any, cast

import ray
from ray import serve
from ray.serve import Application
from ray.serve._private.constants import RAY_SERVE_ENABLE_HA_PROXY
from ray.serve.config import DeploymentActorConfig

from deployments.contract.settings import Autoscaling, FamilySettings, nearest
from deployments.families.table import FAMILIES
from deployments.metrics.requests import MetricsAggregator
from deployments.replica.family import Family, model_formats
from deployments.replica.model_replica import ReplicaOptions
from serve_app.config.config import RuntimeConfig
from serve_app.dispatch.dispatcher import Route
from serve_app.http.haproxy import missing
from serve_app.ingress import METRICS_AGGREGATOR, Ingress
from serve_app.registry.actor import ModelRegistryActor
from serve_app.registry.mirror import MODEL_REGISTRY

SHARE_OF_A_GPU = 0.25
POLICY = "serve_app.autoscaling:replicas_for_calls"  # By its name: Ray's dashboard cannot show a function.
EXCHANGES = 4096  # The ingress bounds what is under way: it counts calls, Serve would count exchanges.
REQUESTS = 1 << 20  # So that none waits in Serve, where nothing is known of keys, turns and deadlines.
PROCESS = uuid.uuid4().hex
LOGGING = {"encoding": "JSON", "enable_access_log": False}


def build(args: RuntimeConfig) -> Application:
    """The application, for `serve run serve_app.app:build`, `serve deploy` and `serve.run(build(config))`."""
    if not RAY_SERVE_ENABLE_HA_PROXY:
        print(missing("`model-runtime serve` starts Ray with it"), file=sys.stderr, flush=True)
    return compose(args, FAMILIES)


def compose(config: RuntimeConfig, families: tuple[Family, ...]) -> Application:
    """Ingress in front, one deployment per family behind. Raises ValueError for a family that is not in the table."""
    names = [family.name for family in families]
    for name in config.families.keys() - set(names):
        raise ValueError(f"families: unknown family {name!r}{nearest(name, names)}")
    models = config.repository()
    formats = model_formats(families)
    version = _version(config, names)
    gpus = ray.cluster_resources().get("GPU", 0) if ray.is_initialized() else 0
    handles: dict[str, Application] = {}
    routes = []
    for family in families:
        settings = config.settings(family.name)
        num_gpus = (SHARE_OF_A_GPU if gpus else 0) if settings.num_gpus is None else settings.num_gpus
        options = ReplicaOptions(family, models, formats, settings, config.cache, config.sources)
        handles[family.name] = _deployment(family, settings, num_gpus, version).bind(options)
        routes.append(
            Route(
                family.name,
                family.request,
                has_models=family.name in formats,
                settings=settings,
                on_gpu=num_gpus > 0,
                may_be_empty=settings.autoscaling.min_replicas == 0,
            )
        )
    deployments = {family.name: _name(family) for family in families}
    board = DeploymentActorConfig(
        name=MODEL_REGISTRY,
        actor_class=ray.remote(ModelRegistryActor),
        # Nothing that JSON cannot say: Ray's dashboard shows it.
        init_args=(
            str(models),
            {name: form.model_dump(mode="json") for name, form in formats.items()},
            list(config.sources),
            deployments,
        ),
        actor_options={"num_cpus": 0},
    )
    return _ingress(config, board, version).bind(config.ingress, tuple(routes), handles)


def _name(family: Family) -> str:
    """Its deployment's."""
    return family.deployment.rpartition(":")[2].removesuffix("Replica")


def _version(config: RuntimeConfig, families: list[str]) -> str:
    """Of all that replicas are started with. Deployed again by this process without a change of it, an application
    keeps its replicas, which take a new `user_config` as they run; Serve would else start all of them anew."""
    lasting = config.model_dump_json(exclude={"access"})
    return hashlib.sha256(f"{PROCESS} {families} {lasting}".encode()).hexdigest()[:16]


def _deployment(family: Family, settings: FamilySettings, num_gpus: float, version: str) -> serve.Deployment:
    deployment = cast(serve.Deployment, serve.deployment(family.replica))
    return deployment.options(
        name=_name(family),
        ray_actor_options={"num_cpus": settings.num_cpus, "num_gpus": num_gpus},
        autoscaling_config=_autoscaling(settings.autoscaling),
        request_router_config={"request_routing_stats_period_s": 1.0},
        max_ongoing_requests=EXCHANGES,
        health_check_period_s=1,
        logging_config=LOGGING,
        graceful_shutdown_timeout_s=5,
        version=version,
        _internal=True,
    )


def _ingress(config: RuntimeConfig, models: DeploymentActorConfig, version: str) -> serve.Deployment:
    metrics = DeploymentActorConfig(
        name=METRICS_AGGREGATOR, actor_class=ray.remote(MetricsAggregator), actor_options={"num_cpus": 0}
    )
    deployment = cast(serve.Deployment, serve.deployment(serve.ingress()(Ingress)))
    return deployment.options(
        name="Ingress",
        ray_actor_options={"num_cpus": config.ingress.num_cpus},
        autoscaling_config=_autoscaling(config.ingress.autoscaling),
        max_ongoing_requests=REQUESTS,
        user_config={"access": config.access.model_dump()},
        health_check_period_s=1,
        logging_config=LOGGING,
        graceful_shutdown_timeout_s=5,
        version=version,
        _internal=True,
        deployment_actors=[metrics, models],
    )


def _autoscaling(autoscaling: Autoscaling) -> dict[str, Any]:
    # Looking back no longer than the delays, so that they mean what they say.
    look_back_s = max(min(autoscaling.upscale_delay_s, autoscaling.downscale_delay_s, 30.0), 1.0)
    return autoscaling.model_dump() | {
        "look_back_period_s": look_back_s,
        "metrics_interval_s": look_back_s / 3,
        "policy": {"policy_function": POLICY},
    }
