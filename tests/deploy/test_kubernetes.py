"""deploy/kubernetes: valid by Ray's schema and a reduced one of KubeRay's, reachable, guarded, and without root."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app.config.config import RuntimeConfig
from serve_app.config.serve_file import runtimes_in
from tests.deploy.kuberay import Container, HeadGroup, PodSpec, RayService
from tests.support import PROJECT

FOLDER = PROJECT / "deploy" / "kubernetes"


@pytest.fixture
def service() -> RayService:
    return RayService.model_validate(yaml.safe_load((FOLDER / "rayservice.yaml").read_text()))


def serve_config(service: RayService) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load(service.spec.serveConfigV2)
    return read


def groups(service: RayService) -> list[HeadGroup]:
    cluster = service.spec.rayClusterConfig
    return [cluster.headGroupSpec, *cluster.workerGroupSpecs]


def objects(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


def test_rays_own_schema_takes_the_serve_config_and_our_settings_are_known(service: RayService) -> None:
    (runtime,) = runtimes_in(serve_config(service))
    assert isinstance(runtime, RuntimeConfig)


def test_a_service_reaches_the_pods_and_only_callers_with_keys_are_answered(service: RayService) -> None:
    config = serve_config(service)
    assert config["http_options"]["host"] == "0.0.0.0"
    (runtime,) = runtimes_in(config)
    assert runtime.access.keys
    unguarded = config | {"applications": [config["applications"][0] | {"args": {"models": "/models"}}]}
    with pytest.raises(ValueError, match=r"so there have to be access\.keys"):
        runtimes_in(unguarded)


def test_every_node_starts_ray_with_what_serve_needs_and_with_the_token(service: RayService) -> None:
    assert service.metadata.annotations["ray.io/overwrite-container-cmd"] == "true"
    assert service.spec.rayClusterConfig.authOptions.mode == "token"
    for group in groups(service):
        (container,) = group.template.spec.containers
        assert "model-runtime exec $KUBERAY_GEN_RAY_START_CMD" in container.args[0]


def test_the_ray_of_the_cluster_is_the_one_that_the_image_gets(service: RayService) -> None:
    assert service.spec.rayClusterConfig.rayVersion == version("ray")
    constraints = (PROJECT / "constraints.txt").read_text().splitlines()
    assert f"ray=={version('ray')}" in constraints


def mounts_of(pod: PodSpec, container: Container) -> dict[str, str]:
    volumes = {volume.name for volume in pod.volumes}
    assert {mount.name for mount in container.volumeMounts} <= volumes
    return {mount.mountPath: mount.name for mount in container.volumeMounts}


def test_what_is_written_has_a_place_beside_the_read_only_root_and_models_are_only_read(service: RayService) -> None:
    (runtime,) = runtimes_in(serve_config(service))
    for group in groups(service):
        pod = group.template.spec
        (container,) = pod.containers
        assert {"/tmp", "/home/runtime"} <= mounts_of(pod, container).keys()
        if group is not service.spec.rayClusterConfig.headGroupSpec:
            (models,) = (mount for mount in container.volumeMounts if mount.mountPath == str(runtime.models))
            assert models.readOnly
            assert container.resources.requests["cpu"] == container.resources.limits["cpu"]


def test_the_workers_that_are_always_there_have_the_cpus_of_the_replicas_that_are(service: RayService) -> None:
    from deployments.families.table import FAMILIES
    from serve_app.capacity import shortage

    (runtime,) = runtimes_in(serve_config(service))
    workers = service.spec.rayClusterConfig.workerGroupSpecs
    cpus = sum(group.minReplicas * int(group.template.spec.containers[0].resources.limits["cpu"]) for group in workers)
    assert shortage(runtime, FAMILIES, cpus) is None
    assert service.spec.rayClusterConfig.headGroupSpec.rayStartParams["num-cpus"] == "0"


def selects(selector: dict[str, Any], group: HeadGroup) -> bool:
    wanted: dict[str, str] = selector["matchLabels"]
    return wanted.items() <= group.template.metadata.labels.items()


def test_the_policies_select_the_pods_and_nobody_reaches_rays_ports_but_the_cluster(service: RayService) -> None:
    budget, network, _ = objects("policies.yaml")
    head, *workers = groups(service)
    assert [selects(budget["spec"]["selector"], group) for group in (head, *workers)] == [False, True, True]
    assert all(selects(network["spec"]["podSelector"], group) for group in (head, *workers))
    for rule in network["spec"]["ingress"]:
        own = rule["from"] == [{"podSelector": network["spec"]["podSelector"]}]
        ports = {port["port"] for port in rule.get("ports", [])}
        assert own != (bool(ports) and ports <= {8000, 8080, 8265, 52365})


def test_the_claims_secrets_and_services_that_are_named_exist(service: RayService) -> None:
    stored = {(item["kind"], item["metadata"]["name"]): item for item in objects("storage.yaml")}
    claims = {
        volume.persistentVolumeClaim.claimName
        for group in groups(service)
        for volume in group.template.spec.volumes
        if volume.persistentVolumeClaim
    }
    assert claims == {name for kind, name in stored if kind == "PersistentVolumeClaim"}
    gcs = service.spec.rayClusterConfig.gcsFaultToleranceOptions
    assert ("Service", gcs.redisAddress.split(":")[0]) in stored
    secret = gcs.redisPassword.valueFrom.secretKeyRef.name
    assert f"create secret generic {secret}" in (PROJECT / "docs" / "kubernetes.md").read_text()


def test_kustomize_applies_every_file() -> None:
    listed = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    assert set(listed) == {file.name for file in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}


def test_the_container_runs_without_root_and_has_all_that_the_installation_needs() -> None:
    recipe = (FOLDER / "Dockerfile").read_text()
    lines = recipe.splitlines()
    assert "USER 1000" in lines
    assert lines.index("USER 1000") > max(number for number, line in enumerate(lines) if line.startswith("RUN"))
    copied = {word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]}
    assert {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "serve_app", "deployments"} == copied
    assert all((PROJECT / name).exists() for name in copied)
    let_through = (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()
    assert copied == {line.removeprefix("!") for line in let_through if line.startswith("!")}
    assert "wget" in recipe  # for KubeRay's probes
    assert Path("/home/runtime").name in recipe
