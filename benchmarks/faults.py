"""What callers see while the processes that compute are killed: `python -m benchmarks.faults [ours ray litserve]`.

Each contestant classifies pictures with two processes. Twelve callers send one request after the other and repeat none;
from time to time the process that computes most is killed.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.environment import FOLDER, PEER_PYTHON, setup
from benchmarks.models import jpeg, save_mobilenet
from benchmarks.report import US, aligned
from benchmarks.servers import Server, ServerFailed, running, settle
from benchmarks.vision.image import MODEL_ID, litserve_server, ours
from benchmarks.vision.pictures import send_base64
from deployments.families.table import FAMILIES

CALLERS = 12
PATIENCE_S = 60.0
SETTLES_WITHIN_S = 120.0
LOOK_S = 1.0
AFTER_A_FAILURE_S = 0.1
"""A caller's pause, so that refusals are not all that is counted."""
TWO = {"autoscaling": {"min_replicas": 2, "max_replicas": 2}, "num_cpus": 0}
NONE = {"autoscaling": {"min_replicas": 0, "max_replicas": 1}, "num_cpus": 0}


@dataclass
class Seen:
    """By the callers of one contestant."""

    answered: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    """By what was seen in place of an answer."""
    longest_s: float = 0.0
    calm_a_s: float = 0.0
    """Answers a second before the first kill."""
    killed_a_s: float = 0.0
    """And from then on."""
    over: threading.Event = field(default_factory=threading.Event)

    def call(self, url: str, body: bytes) -> None:
        with httpx.Client(timeout=PATIENCE_S, headers={"content-type": "application/json"}) as client:
            while not self.over.is_set():
                begun, failure = time.monotonic(), None
                try:
                    reply = client.post(url, content=body)
                    failure = None if reply.is_success else f"status {reply.status_code}"
                except httpx.TransportError as lost:
                    failure = type(lost).__name__
                self.longest_s = max(self.longest_s, time.monotonic() - begun)
                if failure is None:
                    self.answered += 1
                else:
                    self.failed[failure] += 1
                    self.over.wait(AFTER_A_FAILURE_S)


def contestants(model: Path) -> dict[str, Server]:
    """Each with two processes that compute."""
    config = model.parent.parent / "runtime.yaml"
    families = {family.name: TWO if family.name == "image_classification" else NONE for family in FAMILIES}
    config.write_text(json.dumps({"ingress": {"num_cpus": 0}, "families": families}), "utf-8")
    own = ours(model.parent, MODEL_ID)
    app = (sys.executable, FOLDER / "peers" / "ray_serve_app.py", "--port", "{port}", "--model", model)
    return {
        "ours": Server(US, (*own.command, "--config", config), own.path, own.body, own.answer),
        "ray": Server("Ray Serve, @serve.multiplexed", (*app, "--multiplexed"), "/", send_base64, _label),
        "litserve": litserve_server("LitServe, 2 workers", ("--model", str(model), "--workers", "2")),
    }


def _label(reply: Any) -> str:
    return str(reply["class_labels"][0])


def measured(server: Server, picture: bytes, kills: int, every_s: float) -> Seen:
    """What is seen while so many processes are killed, one each `every_s`, and as long before the first and after the
    last. By then each has its model, and nothing is compiled in the background any more."""
    with running(server, picture) as url:
        body = json.dumps(server.body(picture)).encode()
        with calling(url, body) as warm:
            warm.over.wait(every_s)
        settle(SETTLES_WITHIN_S)
        with calling(url, body) as seen:
            seen.over.wait(every_s)
            seen.calm_a_s = seen.answered / every_s
            for _ in range(kills):
                busiest().kill()
                seen.over.wait(every_s)
            seen.killed_a_s = (seen.answered - seen.calm_a_s * every_s) / (kills * (every_s + LOOK_S))
    return seen


@contextmanager
def calling(url: str, body: bytes) -> Iterator[Seen]:
    """All callers, until the block ends."""
    seen = Seen()
    with ThreadPoolExecutor(CALLERS) as threads:
        callers = [threads.submit(seen.call, url, body) for _ in range(CALLERS)]
        try:
            yield seen
        finally:
            seen.over.set()
    for caller in callers:
        caller.result()


def busiest() -> psutil.Process:
    """The process of those that were started here that used most CPU time within LOOK_S."""
    before = _cpu_s()
    time.sleep(LOOK_S)
    used = {process: seconds - before.get(process, 0.0) for process, seconds in _cpu_s().items()}
    return max(used, key=used.__getitem__)


def _cpu_s() -> dict[psutil.Process, float]:
    seconds = {}
    for process in psutil.Process(os.getpid()).children(recursive=True):
        with suppress(psutil.Error):
            seconds[process] = sum(process.cpu_times()[:2])
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("who", nargs="*", default=["ours", "ray", "litserve"])
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--every", type=float, default=15.0, metavar="S", help="seconds from one to the next")
    options = parser.parse_args()
    if not PEER_PYTHON.exists() and "litserve" in options.who:
        setup()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        model = save_mobilenet(Path(folder) / "models" / MODEL_ID)
        servers = contestants(model)
        for who in options.who:
            try:
                seen = measured(servers[who], jpeg(320, 240, 1), options.kills, options.every)
            except ServerFailed as failure:
                print(failure, flush=True)
                return 1
            kinds = ", ".join(f"{count} {kind}" for kind, count in seen.failed.most_common()) or "–"
            failed = str(seen.failed.total())
            rates = [f"{seen.calm_a_s:.0f}", f"{seen.killed_a_s:.0f}"]
            rows.append([servers[who].name, kinds, failed, f"{seen.longest_s:.1f} s", *rates])
            print(f"{servers[who].name}: {rows[-1]}", flush=True)
    columns = ["seen in place of an answer", "failed", "longest wait", "answers a second before", "and while killed"]
    print(aligned(["", *columns], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
