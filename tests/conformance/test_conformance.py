"""One behaviour however the runtime is started: `make test-conformance` (some minutes), which prints the table."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from tests.cluster.cluster import BIN, PATIENCE_S, Cluster, started_cluster
from tests.conformance.asked import BY_HAPROXY, Reply, replies
from tests.support import PROJECT
from tests.support.ports import free_port
from tests.support.tiny_models import save_image_model, save_text_model
from tests.support.until import wait_until

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif("CONFORMANCE" not in os.environ, reason="takes minutes: make test-conformance"),
    pytest.mark.timeout(1800),
]

JOB = """
from serve_app.app import build
from serve_app.config.config import RuntimeConfig
from ray import serve

serve.start(http_options={{"host": "127.0.0.1", "port": {port}}})
serve.run(build(RuntimeConfig.model_validate({{"models": {models!r}}})), name="model-runtime")
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("models")
    save_text_model(models / "text")
    save_image_model(models / "image")
    return models


def serve_file(models: Path, port: int, folder: Path) -> Path:
    config = yaml.safe_load((PROJECT / "serve_config.yaml").read_text())
    config["http_options"]["port"] = port
    config["applications"][0]["args"] = {"models": str(models)}
    file = folder / "serve_config.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


def wait_until_ready(port: int) -> None:
    def ready() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=10).status_code == 200
        except httpx.TransportError:
            return False

    wait_until(ready, "the runtime is ready", PATIENCE_S)


@contextmanager
def running(*words: str) -> Iterator[None]:
    """A program of the environment that starts a Ray of its own, until the block ends."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY")}
    process = psutil.Popen([str(BIN / words[0]), *words[1:]], env=environment, cwd=PROJECT)
    try:
        yield
    finally:
        started = [process, *process.children(recursive=True)]
        process.send_signal(2)
        _, alive = psutil.wait_procs(started, timeout=60)
        for left in alive:
            left.kill()


def by_model_runtime_serve(models: Path, folder: Path) -> dict[str, Reply]:
    port = free_port()
    with running("model-runtime", "serve", "--models", str(models), "--port", str(port)):
        wait_until_ready(port)
        return replies(port)


def by_serve_run(models: Path, folder: Path) -> dict[str, Reply]:
    port = free_port()
    file = str(serve_file(models, port, folder))
    with running("model-runtime", "exec", "serve", "run", "--address", "local", file):
        wait_until_ready(port)
        return replies(port)


def by_serve_deploy(cluster: Cluster, folder: Path) -> dict[str, Reply]:
    file = serve_file(cluster.models, cluster.http_port, folder)
    cluster.succeeds("serve", "deploy", "--address", cluster.dashboard, str(file))
    wait_until_ready(cluster.http_port)
    return replies(cluster.http_port)


def by_a_job(cluster: Cluster, folder: Path) -> dict[str, Reply]:
    (folder / "job.py").write_text(JOB.format(port=cluster.http_port, models=str(cluster.models)))
    submit = ("ray", "job", "submit", "--address", cluster.dashboard, "--working-dir", str(folder))
    cluster.succeeds(*submit, "--", "python", "job.py")
    wait_until_ready(cluster.http_port)
    return replies(cluster.http_port)


def test_every_way_to_start_gives_the_same_replies(models: Path, tmp_path: Path) -> None:
    found: dict[str, dict[str, Reply]] = {}
    alone: dict[str, Callable[[Path, Path], dict[str, Reply]]] = {
        "model-runtime serve": by_model_runtime_serve,
        "serve run": by_serve_run,
    }
    for way, start in alone.items():
        found[way] = start(models, tmp_path)
    with started_cluster(models) as cluster:
        found["serve deploy"] = by_serve_deploy(cluster, tmp_path)
        cluster.stop_serve()
        found["ray job submit"] = by_a_job(cluster, tmp_path)
        cluster.stop_serve()
    print(table(found), file=sys.stderr)
    first, *others = found.values()
    different = [
        f"{what}, {way}: {of_way[what]!r}, not {first[what]!r}"
        for way, of_way in zip(list(found)[1:], others, strict=True)
        for what in first
        if (str if what in BY_HAPROXY else repr)(of_way[what]) != (str if what in BY_HAPROXY else repr)(first[what])
    ]
    assert not different, "\n".join(different)


def table(found: dict[str, dict[str, Reply]]) -> str:
    """Markdown: the reply of each way to each request; `=` where all of it is the first one's."""
    ways = list(found)
    lines = ["| request | " + " | ".join(ways) + " |", "|---" * (len(ways) + 1) + "|"]
    first = found[ways[0]]
    for what, reply in first.items():
        others = ["=" if found[way][what] == reply else str(found[way][what]) for way in ways[1:]]
        lines.append(f"| {what} | {reply} | " + " | ".join(others) + " |")
    return "\n".join(lines)
