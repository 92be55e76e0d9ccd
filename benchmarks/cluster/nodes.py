"""`python -m benchmarks.cluster.nodes far|deploy|join`: a Ray cluster on this machine, started as by an operator.

`far`: both replicas, of texts and of pictures, on another node than the ingress, beside the same on its node, in turn.
`deploy`: `serve deploy` beside `model-runtime serve`, in turn. `join`: a node joins and leaves, drained, under load.
"""

import argparse
import asyncio
import base64
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx

from benchmarks.environment import FOLDER, OUR_BIN
from benchmarks.http.open_loop import Answered, Caller
from benchmarks.load import require_wrk, wrk
from benchmarks.models import jpeg
from benchmarks.servers import Server, running
from serve_app.bench.loops import Measure
from tests.cluster.cluster import Cluster, another_node, started_cluster
from tests.support.tiny_models import save_image_model, save_text_model
from tests.support.until import wait_until

PATIENCE_S = 240.0
CONNECTIONS = (1, 16, 64)
HEADS_CPUS = 8
CALLERS = 4
JSON = {"content-type": "application/json"}

Urls = Mapping[str, str]
"""Two of them, by name: what is measured, then what it is measured by."""


def bodies(folder: Path) -> dict[str, Path]:
    """A request for one token, and one for a picture of 2 kB."""
    picture = base64.b64encode(jpeg(96, 72, 0, at_most_bytes=2048)).decode()
    requests: dict[str, Any] = {
        "text": {"TextGeneration": {"model_id": "text", "prompt": "Once upon a time", "max_tokens": 1}},
        "picture": {"ImageClassification": {"model_id": "image", "image_data": picture}},
    }
    for name, request in requests.items():
        (folder / f"{name}.json").write_text(json.dumps(request))
    return {name: folder / f"{name}.json" for name in requests}


def application(cluster: Cluster, prefix: str, num_cpus: float, replicas: int = 1) -> dict[str, Any]:
    """`num_cpus` says on which nodes its replicas have room."""
    family = {"num_cpus": num_cpus, "autoscaling": {"min_replicas": replicas, "max_replicas": replicas}}
    return {
        "name": prefix or "model-runtime",
        "route_prefix": f"/{prefix}",
        "import_path": "serve_app.app:build",
        "args": {
            "models": str(cluster.models),
            "families": {"text_generation": family, "image_classification": family},
        },
    }


def deploy(cluster: Cluster, *applications: dict[str, Any]) -> None:
    http = {"host": "127.0.0.1", "port": cluster.http_port}
    file = cluster.models.parent / "serve_config.json"
    file.write_text(
        json.dumps({"proxy_location": "HeadOnly", "http_options": http, "applications": list(applications)})
    )
    cluster.succeeds("serve", "deploy", "--address", cluster.dashboard, str(file))


def wait_until_answered(url: str, files: Mapping[str, Path]) -> None:
    def answered() -> bool:
        try:
            return all(
                httpx.post(url, content=file.read_bytes(), headers=JSON, timeout=PATIENCE_S).status_code == 200
                for file in files.values()
            )
        except httpx.TransportError:
            return False

    wait_until(answered, f"{url} answers", PATIENCE_S)


def compare(urls: Urls, files: Mapping[str, Path], pairs: int, seconds: int, only: str = "") -> None:
    """In turn, A B B A, and prints the medians and the ratios of each pair."""
    for url in urls.values():
        for file in files.values():
            wrk(url, file, 16, 2)
    print("| load | requests/s | p50, ms | ratio of the requests/s | of the p50 |\n|---|---:|---:|---:|---:|")
    for load, file in files.items():
        for connections in CONNECTIONS:
            if only not in ("", f"{load} at {connections}"):
                continue
            measured: dict[str, list[Measure]] = {name: [] for name in urls}
            for number in range(pairs):
                for name in list(urls)[:: 1 if number % 2 == 0 else -1]:
                    measured[name].append(wrk(urls[name], file, connections, seconds))
            ours, theirs = measured.values()
            rates = [a.rate / b.rate for a, b in zip(ours, theirs, strict=True)]
            times = [a.p50_ms / b.p50_ms for a, b in zip(ours, theirs, strict=True)]
            print(
                f"| {load} at {connections} "
                f"| {_median([one.rate for one in ours]):.0f} / {_median([one.rate for one in theirs]):.0f} "
                f"| {_median([one.p50_ms for one in ours]):.1f} / {_median([one.p50_ms for one in theirs]):.1f} "
                f"| {_median(rates):.2f} ({min(rates):.2f}–{max(rates):.2f}) | {_median(times):.2f} |",
                flush=True,
            )
    errors = sum(one.errors for of_one in measured.values() for one in of_one)
    print(f"failed at the last point: {errors}")


def _median(values: Sequence[float]) -> float:
    return statistics.median(values)


def far(cluster: Cluster, files: Mapping[str, Path], pairs: int, seconds: int, only: str) -> None:
    near = application(cluster, "near", 1)
    deploy(cluster, near)
    wait_until_answered(f"{cluster.url}/near/infer", files)
    with another_node(cluster, cpus=4 * HEADS_CPUS):
        deploy(cluster, near, application(cluster, "far", HEADS_CPUS + 1))
        urls = {name: f"{cluster.url}/{name}/infer" for name in ("far", "near")}
        wait_until_answered(urls["far"], files)
        heads = {node for _, node in nodes_of_replicas(cluster, "near")}
        others = {node for _, node in nodes_of_replicas(cluster, "far")} - heads
        assert len(heads) == len(others) == 1, "each application has its replicas on a node of its own"
        compare(urls, files, pairs, seconds, only)


def beside(cluster: Cluster, url: str, files: Mapping[str, Path], pairs: int, seconds: int, only: str) -> None:
    deploy(cluster, application(cluster, "", 0.5))
    urls = {"serve deploy": f"{cluster.url}/infer", "model-runtime serve": url}
    for each in urls.values():
        wait_until_answered(each, files)
    compare(urls, files, pairs, seconds, only)


def model_runtime_serve(models: Path) -> Server:
    return Server(
        "model-runtime serve",
        (OUR_BIN / "model-runtime", "serve", "--models", models, "--port", "{port}"),
        "/infer",
        lambda prompt: {"TextGeneration": {"model_id": "text", "prompt": prompt, "max_tokens": 1}},
        lambda reply: reply,
        {"PYTHONPATH": str(FOLDER.parent)},
    )


def nodes_of_replicas(cluster: Cluster, name: str) -> list[tuple[str, str]]:
    """(state, node) of each of the text family's replicas."""
    details = cluster.api("GET", "/api/serve/applications/").raise_for_status().json()
    replicas = details["applications"][name]["deployments"]["TextGeneration"]["replicas"]
    return [(replica["state"], replica.get("node_id", "")) for replica in replicas]


@contextmanager
def asking(url: str, file: Path) -> Iterator[list[Answered]]:
    """Some callers, each asking again as soon as it has its answer, until the block ends. Their answers."""
    answers: list[Answered] = []
    over, body = threading.Event(), file.read_bytes()

    async def ask() -> None:
        caller = Caller(url, body)

        async def one() -> None:
            while not over.is_set():
                answers.append(await caller.post())

        await asyncio.gather(*(one() for _ in range(CALLERS)))
        caller.close()

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(asyncio.run, ask())
        try:
            yield answers
        finally:
            over.set()
            running.result(60)


def join(cluster: Cluster, files: Mapping[str, Path], times: int) -> None:
    """Three replicas, of which the head has room for two: the third one is wherever a node joins."""
    deploy(cluster, application(cluster, "", 3, replicas=3) | {"args": _texts_alone(cluster)})
    url = f"{cluster.url}/infer"
    wait_until_answered(url, {"text": files["text"]})
    heads = {node for state, node in nodes_of_replicas(cluster, "model-runtime") if state == "RUNNING"}

    def elsewhere() -> set[str]:
        return {node for state, node in nodes_of_replicas(cluster, "model-runtime") if state == "RUNNING"} - heads

    with asking(url, files["text"]) as answers:
        for number in range(times):
            begin = time.monotonic()
            with another_node(cluster, cpus=3):
                wait_until(lambda: len(elsewhere()) == 1, "a replica runs on the node", PATIENCE_S)
                joined = len(answers)
                (node,) = elsewhere()
                time.sleep(2)
                drain = ("ray", "drain-node", "--address", cluster.gcs, "--node-id", node, "--reason-message", "leaves")
                reason = ("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--deadline-remaining-seconds", "300")
                cluster.succeeds(*drain, *reason)
                wait_until(lambda: not elsewhere(), "no replica runs on the node", PATIENCE_S)
            failed = [answer for answer in answers if answer.status != 200]
            print(
                f"{number + 1}: {len(answers)} answered, {len(answers) - joined} since the replica was there, "
                f"{len(failed)} failed {[one.status for one in failed[:3]]}, {time.monotonic() - begin:.0f} s",
                flush=True,
            )
    slowest = max(answer.took_ms for answer in answers)
    print(f"{times} times: {len(answers)} requests, {len(failed)} failed, the slowest took {slowest / 1e3:.1f} s")


def _texts_alone(cluster: Cluster) -> dict[str, Any]:
    three = {"num_cpus": 3, "autoscaling": {"min_replicas": 3, "max_replicas": 3}}
    none = {"autoscaling": {"min_replicas": 0}}
    return {"models": str(cluster.models), "families": {"text_generation": three, "image_classification": none}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("far", "deploy", "join"))
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--only", default="", help="one load, such as 'text at 1'")
    parser.add_argument("--times", type=int, default=10)
    options = parser.parse_args()
    require_wrk()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        models = folder / "models"
        save_text_model(models / "text")
        save_image_model(models / "image")
        files = bodies(folder)
        # Before the cluster: what ends it ends every process that was started here.
        url = stack.enter_context(running(model_runtime_serve(models), "x")) if options.what == "deploy" else ""
        cluster = stack.enter_context(started_cluster(models))
        try:
            if options.what == "join":
                join(cluster, files, options.times)
            elif options.what == "far":
                far(cluster, files, options.pairs, options.seconds, options.only)
            else:
                beside(cluster, url, files, options.pairs, options.seconds, options.only)
        finally:
            cluster.stop_serve()


if __name__ == "__main__":
    main()
