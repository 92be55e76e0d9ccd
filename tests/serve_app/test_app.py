"""The application that `build` makes of a configuration: its deployments, their shares of a GPU, what it refuses."""

import json
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import ray
from ray.serve import Application
from ray.serve._private import constants
from ray.serve._private.config import DeploymentConfig
from ray.serve.exceptions import RayServeException

from deployments.contract.settings import LONGEST_REQUEST_S
from deployments.families.image_classification.family import IMAGE_CLASSIFICATION, ImageClassificationOptions
from deployments.families.object_detection.family import OBJECT_DETECTION
from deployments.families.speech_to_text.family import SPEECH_TO_TEXT
from deployments.families.table import FAMILIES
from deployments.replica.family import Form
from deployments.replica.model_replica import ReplicaOptions
from deployments.repository.families import ModelFormat
from serve_app import app
from serve_app.app import SHARE_OF_A_GPU, build, compose
from serve_app.config.config import RuntimeConfig
from tests.support import sweep
from tests.support.echo import ECHO


def init_args(application: Application) -> tuple[Any, ...]:
    """What the application's first deployment is made from."""
    return application._bound_deployment.init_args


def families(application: Application) -> dict[str, Application]:
    """Each family's part of the application, as the ingress is handed it."""
    return dict(init_args(application)[2])


def gpu_shares(application: Application) -> dict[str, float]:
    options = {name: family._bound_deployment.ray_actor_options for name, family in families(application).items()}
    return {name: option["num_gpus"] for name, option in options.items() if option is not None}


@pytest.mark.parametrize(("gpus", "share"), [(0, 0), (1, SHARE_OF_A_GPU)])
def test_a_family_takes_a_share_of_a_gpu_only_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, gpus: int, share: float
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0, "GPU": float(gpus)})
    assert gpu_shares(compose(RuntimeConfig(), FAMILIES)) == {family.name: share for family in FAMILIES}


def test_a_share_that_is_stated_is_kept() -> None:
    config = RuntimeConfig.model_validate({"families": {"text_generation": {"num_gpus": 0.5}}})
    assert gpu_shares(compose(config, FAMILIES))["text_generation"] == 0.5


def test_a_family_that_needs_a_kind_of_gpu_asks_ray_for_it_and_no_other_does() -> None:
    needs = {"num_gpus": 0.5, "accelerator_type": "L4"}
    config = RuntimeConfig.model_validate({"families": {"text_generation": needs}})
    options = {
        name: family._bound_deployment.ray_actor_options for name, family in families(compose(config, FAMILIES)).items()
    }
    assert [name for name, option in options.items() if option and "accelerator_type" in option] == ["text_generation"]
    assert (options["text_generation"] or {})["accelerator_type"] == "L4"


def versions(config: dict[str, Any]) -> dict[str, str]:
    """Of the deployments."""
    application = compose(RuntimeConfig.model_validate(config), FAMILIES)
    parts = (application, *families(application).values())
    return {part._bound_deployment.name: str(part._bound_deployment.version) for part in parts}


@cache
def versions_by_default() -> dict[str, str]:
    return versions({})


KEY = {"access": {"keys": {"team": {"sha256": "0" * 64, "requests_per_day": 5}}}}
ALL = {"Ingress", "ImageClassification", "TextGeneration", "ObjectDetection", "TextEmbedding", "SpeechToText"}

CHANGES: list[tuple[dict[str, Any], set[str]]] = [
    ({}, set()),
    (RuntimeConfig().model_dump(mode="json"), set()),
    (KEY, set()),
    ({"families": {"text_generation": {"deadline_s": 5, "max_queued_requests": 7, "preload": ["a"]}}}, set()),
    ({"families": {"text_generation": {"autoscaling": {"max_replicas": 5}}}}, set()),
    ({"families": {"text_generation": {"unload_idle_s": 5}, "speech_to_text": {"max_audio_s": 5}}}, set()),
    ({"families": {"image_classification": {"max_megapixels": 3}}}, set()),
    ({"families": {"text_generation": {"max_batch_size": 4}}}, {"TextGeneration"}),
    ({"families": {"text_generation": {"folder_defaults": False}}}, {"TextGeneration"}),
    ({"families": {"image_classification": {"num_gpus": 0.5}}}, {"ImageClassification"}),
    ({"families": {"image_classification": {"accelerator_type": "L4"}}}, {"ImageClassification"}),
    ({"ingress": {"access_log": True}}, {"Ingress"}),
    ({"models": "deployments"}, {"Ingress"}),
    ({"cache": "elsewhere"}, ALL - {"Ingress"}),
    ({"link_targets": ["/"]}, ALL),
]


@pytest.mark.parametrize("case", sweep(CHANGES, *CHANGES[2::4]))
def test_a_change_replaces_the_replicas_that_read_it_at_their_start_and_no_others(
    monkeypatch: pytest.MonkeyPatch, case: tuple[dict[str, Any], set[str]]
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    change, replaced = case
    before, after = versions_by_default(), versions(change)
    assert {name for name in before if after[name] != before[name]} == replaced


def test_what_a_replica_does_not_read_at_its_start_reaches_it_as_it_runs() -> None:
    config = {"families": {"text_generation": {"deadline_s": 5, "preload": ["a"]}}, **KEY}
    application = compose(RuntimeConfig.model_validate(config), FAMILIES)
    text = families(application)["text_generation"]._bound_deployment
    ingress = application._bound_deployment
    assert text.user_config["settings"]["deadline_s"] == 5
    assert ingress.user_config["settings"]["text_generation"]["preload"] == ["a"]
    assert list(ingress.user_config["access"]["keys"]) == ["team"]


def test_serve_deploy_does_not_give_all_deployments_one_version() -> None:
    """Serve sets it on the configuration that it then sends to its controller."""
    for deployment in (one._bound_deployment for one in families(compose(RuntimeConfig(), FAMILIES)).values()):
        sent = deployment.options()._deployment_config
        sent.version = "the hash of all arguments"
        assert DeploymentConfig.from_proto_bytes(sent.to_proto_bytes()).version == deployment.version


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ({"famlies": {}}, "args: unknown key 'famlies'; did you mean 'families'?"),
        ({"models": "nowhere"}, "models: there is no folder 'nowhere'"),
        ({"families": {"txet": {}}}, "families: unknown family 'txet'"),
    ],
)
def test_what_serve_status_says_of_a_mistake_is_one_line(args: dict[str, Any], reason: str) -> None:
    """Serve shows the message of a RayServeException, and of any other failure its traceback."""
    with pytest.raises(RayServeException) as refused:
        build(args)
    assert str(refused.value) == reason


def test_a_ray_that_was_started_without_what_serve_needs_is_refused_by_the_variables_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(app, "in_worker", lambda: True)
    monkeypatch.setattr(constants, "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", None)
    monkeypatch.setattr(constants, "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH", 4 * 2**20)
    with pytest.raises(
        RayServeException, match=r"CALLBACK_IMPORT_PATH and RAY_SERVE_REPLICA_GRPC.*`model-runtime exec"
    ):
        build(RuntimeConfig())
    monkeypatch.setattr(constants, "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", "serve_app.http.middleware:x")
    with pytest.raises(RayServeException, match="without RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH:"):
        build(RuntimeConfig())
    build(RuntimeConfig.model_validate({"ingress": {"max_body_mb": 3}}))


@pytest.mark.parametrize("connected", [False, True])
def test_where_no_ray_is_connected_one_that_this_process_starts_has_what_serve_needs(
    monkeypatch: pytest.MonkeyPatch, connected: bool
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: connected)
    monkeypatch.setattr(ray, "cluster_resources", dict)
    monkeypatch.setattr(app, "set_environment_until_exit", lambda: asked.append(True))
    build(RuntimeConfig())
    assert asked == ([] if connected else [True])


def test_settings_of_a_family_that_is_not_in_the_table_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown family 'text_generatoin'; did you mean 'text_generation'"):
        compose(RuntimeConfig.model_validate({"families": {"text_generatoin": {}}}), FAMILIES)


def test_each_replica_is_made_from_its_row_and_its_familys_own_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # the session's Ray has a GPU
    config = RuntimeConfig.model_validate({"families": {"image_classification": {"max_megapixels": 3}}})
    parts = families(compose(config, (*FAMILIES, ECHO)))
    assert {name: part._bound_deployment.name for name, part in parts.items()} == {
        "image_classification": "ImageClassification",
        "text_generation": "TextGeneration",
        "object_detection": "ObjectDetection",
        "text_embedding": "TextEmbedding",
        "speech_to_text": "SpeechToText",
        "echo": "Echo",
    }
    (options,) = init_args(parts["image_classification"])
    assert isinstance(options, ReplicaOptions)
    assert options.family is IMAGE_CLASSIFICATION
    assert options.settings == ImageClassificationOptions(max_megapixels=3, num_gpus=0)
    assert options.formats.keys() == {family.name for family in FAMILIES}


def test_a_family_without_a_bundled_model_has_no_replica_until_it_is_asked() -> None:
    parts = families(compose(RuntimeConfig(), FAMILIES))
    fewest = {name: part._bound_deployment._deployment_config.autoscaling_config for name, part in parts.items()}
    assert {name: config.min_replicas for name, config in fewest.items() if config is not None} == {
        "image_classification": 1,
        "text_generation": 1,
        "object_detection": 0,
        "text_embedding": 0,
        "speech_to_text": 0,
    }


def test_replicas_that_are_taken_away_have_an_hour_for_what_they_are_answering() -> None:
    application = compose(RuntimeConfig(), FAMILIES)
    bound = [application, *families(application).values()]
    assert {part._bound_deployment._deployment_config.graceful_shutdown_timeout_s for part in bound} == {
        LONGEST_REQUEST_S
    }


def test_families_are_scaled_by_their_queue_and_ingresses_by_their_requests() -> None:
    config = RuntimeConfig.model_validate({"families": {"text_generation": {"autoscaling": {"target_queue_s": 7}}}})
    application = compose(config, FAMILIES)
    policies = {}
    for part in (application, families(application)["text_generation"]):
        scaling = part._bound_deployment._deployment_config.autoscaling_config
        assert scaling is not None
        policies[part._bound_deployment.name] = (scaling.policy.policy_function, scaling.policy.policy_kwargs)
    assert policies == {
        "Ingress": ("serve_app.autoscaling:replicas_for_calls", {}),
        "TextGeneration": ("serve_app.autoscaling:ReplicasForWork", {"target_queue_s": 7}),
    }


def test_the_registrys_arguments_are_json_and_give_the_formats_of_the_families_with_models() -> None:
    application = compose(RuntimeConfig(), (*FAMILIES, ECHO))
    actors = application._bound_deployment._deployment_config.deployment_actors or []
    (registry,) = [actor for actor in actors if actor.init_args]
    models, formats, sources, deployments, _, quarantine_s = json.loads(json.dumps(registry.init_args))
    assert quarantine_s == 3600
    assert models.endswith("models")
    assert "s3://" in sources
    assert deployments["echo"] == "Echo"
    for family in FAMILIES:
        read = ModelFormat.model_validate(formats.pop(family.name))
        assert (read.matches, read.golden) == (family.matches, family.golden)
    assert formats == {}


def test_the_ingress_is_handed_the_forms_of_the_families() -> None:
    film = Form(ECHO.request, "film", "film_data")
    application = compose(RuntimeConfig(), (*FAMILIES, replace(ECHO, form=film)))
    assert init_args(application)[3] == [IMAGE_CLASSIFICATION.form, OBJECT_DETECTION.form, SPEECH_TO_TEXT.form, film]
