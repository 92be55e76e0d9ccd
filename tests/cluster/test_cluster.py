"""From a cluster file to a served request: each entrance of Ray works with token authentication, none without."""

import base64
import json
import re
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from tests.cluster.cluster import BIN, PATIENCE_S, Cluster, another_node, started_cluster
from tests.support import PROJECT
from tests.support.tiny_models import padded_picture, save_image_model, save_text_model
from tests.support.until import wait_until

PROMPT = "Once upon a time"
TEXT = {"TextGeneration": {"model_id": "text", "prompt": PROMPT, "max_tokens": 4}}
WRONG_TOKEN = "0" * 64
APPLICATION = "model-runtime"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    models = tmp_path_factory.mktemp("models")
    save_text_model(models / "text")
    save_image_model(models / "image")
    with started_cluster(models) as cluster:
        yield cluster


@pytest.fixture
def serveless(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster without Serve, before and after."""
    yield cluster
    cluster.stop_serve()


def assert_serves(cluster: Cluster) -> None:
    """The runtime answers over HTTP in the contract's shape, and Ray's dashboard shows it running."""
    wait_until(lambda: is_ready(cluster), "the runtime is ready", PATIENCE_S)
    reply = httpx.post(f"{cluster.url}/infer", json=TEXT, timeout=60)
    assert reply.status_code == 200
    ((variant, result),) = reply.json().items()
    assert variant == "TextGenerationResult"
    assert isinstance(result["generated_text"], str)
    assert result["usage"]["completion_tokens"] > 0
    assert cluster.applications() == {APPLICATION: "RUNNING"}
    assert_guarded(cluster)


def assert_guarded(cluster: Cluster) -> None:
    """Bodies up to the limit arrive, and what would control Serve, or loses a body, is taken away."""
    large = base64.b64encode(padded_picture(6 << 20)).decode()
    picture = {"ImageClassification": {"model_id": "image", "image_data": large}}
    with ThreadPoolExecutor(8) as callers:
        replies = list(callers.map(lambda _: httpx.post(f"{cluster.url}/infer", json=picture, timeout=60), range(8)))
    assert [reply.status_code for reply in replies] == [200] * 8, replies[0].text
    upgrade = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2-settings": "AAEAAEAAAAIAAAAB"}
    for headers in (upgrade, {"x-request-timeout-seconds": "0.001"}):
        reply = httpx.post(f"{cluster.url}/infer", json=TEXT, headers=headers, timeout=60)
        assert (reply.status_code, "TextGenerationResult" in reply.text) == (200, True), headers
    assert httpx.get(f"{cluster.url}/-/routes").status_code == 404


def is_ready(cluster: Cluster) -> bool:
    try:
        return httpx.get(f"{cluster.url}/readyz", timeout=10).status_code == 200
    except httpx.TransportError:
        return False


def unready(cluster: Cluster) -> str:
    """Why requests would wait; empty where nothing says so."""
    try:
        reply = httpx.get(f"{cluster.url}/readyz", timeout=20)
    except httpx.TransportError:
        return ""
    return reply.text if reply.status_code == 503 else ""


@pytest.mark.cluster
def test_serve_run_serves_until_interrupted(serveless: Cluster, tmp_path: Path) -> None:
    said = tmp_path / "said"
    serveless.succeeds("serve", "start", "--address", serveless.gcs, "--http-port", str(serveless.http_port))
    # Where the tests themselves run in a shell's background, a child would inherit that SIGINT is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with said.open("wb") as output:
        run = psutil.Popen(
            [
                *(str(BIN / "serve"), "run", "--address", serveless.gcs, "--name", APPLICATION),
                *("serve_app.app:build", f"models={serveless.models}"),
            ],
            env=serveless.env,
            cwd=serveless.env["HOME"],
            stdout=subprocess.DEVNULL,
            stderr=output,
        )
    try:
        assert_serves(serveless)
        run.send_signal(signal.SIGINT)
        assert run.wait(timeout=60) == 0
        wait_until(lambda: serveless.applications() == {}, "the application is gone", PATIENCE_S)
    finally:
        if run.poll() is None:
            run.kill()
            run.wait()


@pytest.mark.cluster
def test_serve_deploy_serves_the_committed_config_and_calls_a_replica_on_another_node_past_serve(
    serveless: Cluster, tmp_path: Path
) -> None:
    config = yaml.safe_load((PROJECT / "serve_config.yaml").read_text())
    config["http_options"]["port"] = serveless.http_port
    arguments = config["applications"][0]["args"]
    arguments["models"] = str(serveless.models)
    arguments["families"]["text_generation"]["num_cpus"] = 12  # which the head has not
    file = tmp_path / "serve_config.yaml"
    file.write_text(yaml.safe_dump(config))
    serveless.succeeds("serve", "deploy", "--address", serveless.dashboard, str(file))
    wait_until(lambda: "a replica waits for 12 CPU" in unready(serveless), "/readyz says what is missing", PATIENCE_S)
    with another_node(serveless, cpus=20):
        assert_serves(serveless)
        logs = Path(serveless.env["HOME"], "ray", "session_latest", "logs", "serve")
        by_tcp = re.compile(r"is reached directly at \('[0-9.]+', [0-9]+\)")
        wait_until(
            lambda: any(by_tcp.search(file.read_text()) for file in logs.glob("replica_*Ingress*")),
            "the ingress is connected to the other node's replica",
            PATIENCE_S,
        )
        # Before the node leaves: Serve gives a replica that finds no room as long to end as one with a stream.
        serveless.stop_serve()


JOB = """
from pathlib import Path

from ray import serve

from serve_app.app import build
from serve_app.client import ModelRuntimeClient
from serve_app.config.config import RuntimeConfig

serve.start(http_options={{"host": "127.0.0.1", "port": {port}}})
handle = serve.run(build(RuntimeConfig(models=Path({models!r}))), name="model-runtime")
result = ModelRuntimeClient(handle).generate("text", {prompt!r}, max_tokens=4)
print("the job got", result.usage.completion_tokens, "tokens")
"""


@pytest.mark.cluster
def test_a_submitted_job_deploys_the_runtime_and_asks_it_and_another_one_is_bulk_work(
    serveless: Cluster, tmp_path: Path
) -> None:
    script = JOB.format(port=serveless.http_port, models=str(serveless.models), prompt=PROMPT)
    (tmp_path / "job.py").write_text(script)
    submit = ("ray", "job", "submit", "--address", serveless.dashboard, "--working-dir", str(tmp_path))
    told = serveless.succeeds(*submit, "--", "python", "job.py")
    assert re.search(r"the job got [1-4] tokens", told), told
    # The runtime outlives the job that deployed it.
    assert_serves(serveless)
    (tmp_path / "in.jsonl").write_text(f"{json.dumps(TEXT)}\nno request\n{json.dumps(TEXT)}\n")
    files = (str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"))
    batch = ("model-runtime", "batch", *files, "--url", serveless.url)
    serveless.succeeds("ray", "job", "submit", "--address", serveless.dashboard, "--", *batch)
    answers = [next(iter(json.loads(line))) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert answers == ["TextGenerationResult", "Error", "TextGenerationResult"]


@pytest.mark.cluster
@pytest.mark.parametrize(
    "entrance",
    [
        ("serve", "run", "--non-blocking", "--address", "{gcs}", "serve_app.app:build", "models={models}"),
        ("serve", "deploy", "--address", "{dashboard}", str(PROJECT / "serve_config.yaml")),
        ("ray", "job", "submit", "--address", "{dashboard}", "--", "true"),
    ],
    ids=["serve run", "serve deploy", "ray job submit"],
)
def test_an_entrance_refuses_another_token(cluster: Cluster, entrance: tuple[str, ...]) -> None:
    words = [word.format(gcs=cluster.gcs, dashboard=cluster.dashboard, models=cluster.models) for word in entrance]
    # `serve run` would try for 20 s.
    refused = cluster.command(*words, RAY_AUTH_TOKEN=WRONG_TOKEN, RAY_NUM_REDIS_GET_RETRIES="1")
    assert refused.returncode != 0
    assert re.search("InvalidAuthToken|Invalid authentication token", refused.stdout), refused.stdout
    assert cluster.applications() == {}


@pytest.mark.cluster
@pytest.mark.parametrize(("method", "path"), [("PUT", "/api/serve/applications/"), ("POST", "/api/jobs/")])
def test_the_dashboard_refuses_a_caller_without_a_token(cluster: Cluster, method: str, path: str) -> None:
    assert httpx.request(method, cluster.dashboard + path, json={}).status_code == 401


def unknown_keys(given: Any, known: Any, where: str = "") -> list[str]:
    """Keys of `given` that `known`, the same thing after parsing, lacks."""
    if isinstance(given, list):
        return [key for i, item in enumerate(given) for key in unknown_keys(item, known[i], f"{where}[{i}]")]
    if not isinstance(given, dict) or where.endswith(".args"):
        return []
    return [f"{where}.{key}" for key in given if key not in known] + [
        key for name in given if name in known for key in unknown_keys(given[name], known[name], f"{where}.{name}")
    ]


def test_the_committed_serve_config_is_valid_and_stays_on_loopback() -> None:
    from ray.serve.schema import ServeDeploySchema

    from serve_app.config.config import RuntimeConfig

    given = yaml.safe_load((PROJECT / "serve_config.yaml").read_text())
    parsed = ServeDeploySchema.model_validate(given)
    # Serve itself drops unknown keys without a word.
    assert unknown_keys(given, json.loads(parsed.model_dump_json())) == []
    assert parsed.http_options.host == "127.0.0.1"
    (application,) = parsed.applications
    assert (application.name, application.import_path) == (APPLICATION, "serve_app.app:build")
    RuntimeConfig.model_validate(application.args)


@pytest.fixture
def launcher() -> dict[str, Any]:
    """cluster.yaml as Ray completes it, after Ray's own validation."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared: dict[str, Any] = prepare_config(yaml.safe_load((PROJECT / "cluster.yaml").read_text()))
    validate_config(prepared)
    return prepared


def test_cluster_yaml_has_a_head_and_gpu_workers_that_scale_from_zero(launcher: dict[str, Any]) -> None:
    assert launcher["head_node_type"] == "head"
    workers = launcher["available_node_types"]["gpu_worker"]
    assert workers["min_workers"] == 0
    assert 0 < workers["max_workers"] <= launcher["max_workers"]


def test_cluster_yaml_mounts_all_that_the_installation_needs(launcher: dict[str, Any]) -> None:
    assert all((PROJECT / local).exists() for local in launcher["file_mounts"].values())
    mounted = {Path(remote).name for remote in launcher["file_mounts"]}
    assert {"serve_app", "deployments", "models", "pyproject.toml", "constraints.txt"} <= mounted
    # pyproject.toml names them.
    assert {"README.md", "LICENSE"} <= mounted


def test_cluster_yaml_turns_authentication_on_wherever_ray_starts(launcher: dict[str, Any]) -> None:
    starts = [*launcher["head_start_ray_commands"], *launcher["worker_start_ray_commands"]]
    starts = [command for command in starts if "ray start" in command]
    assert len(starts) == 2
    for command in starts:
        assert command.index("export RAY_AUTH_MODE=token;") < command.index("ray start")
        assert "--metrics-export-port=" in command
        assert "model-runtime exec ray start" in command
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert any("get-auth-token --generate" in command for command in launcher["head_setup_commands"])
    assert launcher["cluster_synced_files"] == ["~/.ray/auth_token"]


def test_cluster_yaml_holds_commands_that_a_shell_can_parse(launcher: dict[str, Any]) -> None:
    for key, commands in launcher.items():
        if not key.endswith("_commands"):
            continue
        for command in commands:
            # The launcher wraps each in parentheses, and `((` begins arithmetic.
            assert not command.startswith("("), command
            parsed = subprocess.run(["bash", "-n", "-c", f"({command})"], capture_output=True, text=True)
            assert parsed.returncode == 0, (command, parsed.stderr)
