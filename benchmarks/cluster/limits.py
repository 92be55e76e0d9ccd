"""`python -m benchmarks.cluster.limits folders|replicas`: what ingress, registry and Serve's controller take.

`folders`: 10 and 1,000 made models, a request to one of them. `replicas`: of a family without a model, which answers at
once, more and more of them behind one ingress.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.environment import FOLDER, OUR_BIN
from benchmarks.idle import Idle, measured
from benchmarks.load import require_wrk, wrk
from benchmarks.servers import Server, running, settle
from deployments.families.table import FAMILIES
from deployments.replica.family import model_formats
from deployments.repository.local import Repository
from tests.support.tiny_models import save_text_model
from tests.support.until import wait_until

FOLDERS, REPLICAS = (10, 1000), (1, 16, 48)
SECONDS, SETTLE_S = 8, 60.0
OF_INTEREST = {"ingress": "ServeReplica:model-runtime:Ingress", "registry": "Registry", "controller": "ServeController"}

NAMES = " / ".join(OF_INTEREST)


@contextmanager
def served(command: tuple[str | Path, ...], body: dict[str, Any]) -> Iterator[str]:
    """The runtime's URL, once it answers the body."""
    server = Server(
        "ours", (*command, "--port", "{port}"), "/infer", lambda _: body, str, {"PYTHONPATH": str(FOLDER.parent)}
    )
    with running(server, None) as url:
        yield url.removesuffix("/infer")


def loaded(url: str, body: dict[str, Any]) -> tuple[float, Idle]:
    """Requests a second at 16 connections, and what the processes took meanwhile."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file, ThreadPoolExecutor(1) as pool:
        json.dump(body, file)
        file.flush()
        wrk(f"{url}/infer", Path(file.name), 16, 2)
        load = pool.submit(wrk, f"{url}/infer", Path(file.name), 16, SECONDS)
        taken = measured(psutil.Process(), SECONDS - 1)
        return load.result().rate, taken


def shown(taken: Idle, of: dict[str, float], digits: int) -> str:
    """Of the processes of interest."""
    return " / ".join(f"{sum(of[name] for name in of if part in name):.{digits}f}" for part in OF_INTEREST.values())


def folders() -> None:
    scan, lists = "first scan, next, s", "/v1/models, /models, ms"
    print(f"| models | {scan} | answered after, s | {lists} | kB | requests/s | MiB of {NAMES} |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for count in FOLDERS:
        with tempfile.TemporaryDirectory() as name:
            models = Path(name) / "models"
            save_text_model(models / "m0")
            for number in range(1, count):
                shutil.copytree(models / "m0", models / f"m{number}")
            repository, scans = Repository(models, model_formats(FAMILIES)), []
            for _ in range(2):
                begin = time.perf_counter()
                assert len(repository.models()) == count
                scans.append(f"{time.perf_counter() - begin:.2f}")
            body = {"TextGeneration": {"model_id": f"m{count - 1}", "prompt": "a", "max_tokens": 1}}
            begin = time.perf_counter()
            with served((OUR_BIN / "model-runtime", "serve", "--models", models), body) as url:
                ready_s = time.perf_counter() - begin
                settle(SETTLE_S)
                listed = [_listed(f"{url}{path}") for path in ("/v1/models", "/models")]
                rate, taken = loaded(url, body)
        times, sizes = (", ".join(f"{one:.0f}" for one in of) for of in zip(*listed, strict=True))
        of_lists = f"{', '.join(scans)} | {ready_s:.0f} | {times} | {sizes}"
        print(f"| {count} | {of_lists} | {rate:.0f} | {shown(taken, taken.mib, 0)} |", flush=True)


def replicas() -> None:
    print(f"| replicas | all there after, s | MiB in all | requests/s | of a core under load: {NAMES} | idle |")
    print("|---:|---:|---:|---:|---:|---:|")
    body = {"Paced": {"model_id": "", "text": "a", "takes_ms": 0}}
    for count in REPLICAS:
        with tempfile.TemporaryDirectory() as name:
            config = Path(name) / "config.yaml"
            scaling = {"min_replicas": count, "max_replicas": count}
            config.write_text(
                json.dumps({"models": name, "families": {"paced": {"num_cpus": 0.01, "autoscaling": scaling}}})
            )
            program = (sys.executable, "-m", "benchmarks.http.serve_family", "paced", "--config", config)
            begin = time.perf_counter()
            with served(program, body) as url:
                wait_until(partial(_running, "ServeReplica:model-runtime:Paced", count), "all replicas run", 240)
                there_s = time.perf_counter() - begin
                settle(SETTLE_S)
                idle = measured(psutil.Process(), SECONDS)
                rate, taken = loaded(url, body)
        mib = sum(taken.mib.values())
        print(
            f"| {count} | {there_s:.0f} | {mib:.0f} | {rate:.0f} | {shown(taken, taken.cores, 2)} "
            f"| {shown(idle, idle.cores, 2)} |",
            flush=True,
        )


def _listed(url: str) -> tuple[float, float]:
    """Milliseconds, the median of some, and kB."""
    times = []
    for _ in range(10):
        begin = time.perf_counter()
        reply = httpx.get(url, timeout=60).raise_for_status()
        times.append((time.perf_counter() - begin) * 1e3)
    return statistics.median(times), len(reply.content) / 1e3


def _running(name: str, count: int) -> bool:
    return sum(name in " ".join(one.cmdline()) for one in psutil.Process().children(recursive=True)) >= count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("folders", "replicas"))
    require_wrk()
    {"folders": folders, "replicas": replicas}[parser.parse_args().what]()


if __name__ == "__main__":
    main()
