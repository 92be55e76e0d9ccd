"""`python -m benchmarks.trace`: the modules of ours that a text request enters, from the socket to the first tensor.

Starts `model-runtime serve` with a profiler in each of its processes (benchmarks/tracing), sends the same request some
times, and prints the modules that every one of them entered before the first forward, in order. What only some of them
entered is background work: reports, sweeps, health checks.
"""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

PROJECT = Path(__file__).resolve().parent.parent
REQUESTS = 12
READY_S = 400.0
BODY = {"TextGeneration": {"model_id": "gpt-nano", "prompt": "ROMEO:", "max_tokens": 2}}
TENSOR = "tensor"
ENGINES = "deployments/engines/text/"
"""Only the replica of texts enters these."""


def trace() -> list[str]:
    """Paths of modules below the project, in the order in which a request enters them. Raises RuntimeError."""
    with tempfile.TemporaryDirectory() as name:
        output = Path(name) / "trace"
        with _runtime(Path(name), output) as url, httpx.Client(base_url=url, timeout=60) as client:
            client.post("/infer", json=BODY).raise_for_status()
            _until_converted(client)
            for _ in range(3):
                client.post("/infer", json=BODY).raise_for_status()
            windows = []
            for _ in range(REQUESTS):
                time.sleep(0.05)
                begin = time.monotonic_ns()
                client.post("/infer", json=BODY).raise_for_status()
                windows.append((begin, time.monotonic_ns()))
        return _common(output.read_text("utf-8"), windows)


def _until_converted(client: httpx.Client) -> None:
    """Plain generation answers while the model is converted for OpenVINO. Raises RuntimeError."""
    give_up = time.monotonic() + READY_S
    while "being converted" in client.get("/models/gpt-nano").raise_for_status().text:
        if time.monotonic() > give_up:
            raise RuntimeError("the model was not converted")
        time.sleep(0.2)


def _common(lines: str, windows: list[tuple[int, int]]) -> list[str]:
    """What all windows have before their first tensor, in the order of most of them: background work that enters one
    of these modules changes the order of its window."""
    known = [(int(at), process, module) for at, process, module in map(str.split, lines.splitlines())]
    computing = {process for _, process, module in known if module.startswith(ENGINES)}
    # The other families' replicas have forwards of their own, as long as they compare engines.
    events = sorted((at, module) for at, process, module in known if module != TENSOR or process in computing)
    ways = []
    for begin, end in windows:
        way: dict[str, None] = {}
        for at, module in events:
            if begin <= at <= end:
                if module == TENSOR:
                    break
                way[module] = None
        else:
            raise RuntimeError("a request reached no forward")
        ways.append(way)
    common = set.intersection(*map(set, ways))
    orders = Counter(tuple(module for module in way if module in common) for way in ways)
    return list(orders.most_common(1)[0][0])


@contextmanager
def _runtime(folder: Path, output: Path) -> Iterator[str]:
    """The runtime's URL, once it is ready; stopped afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = folder / "runtime.yaml"
    config.write_text(json.dumps({"models": str(PROJECT / "models"), "cache": str(folder / "cache")}), "utf-8")
    environment = os.environ | {
        "PYTHONPATH": f"{PROJECT / 'benchmarks' / 'tracing'}:{PROJECT}",
        "TRACE_ROOT": str(PROJECT),
        "TRACE_OUTPUT": str(output),
    }
    command = [
        str(Path(sys.executable).parent / "model-runtime"),
        "serve",
        "--config",
        str(config),
        "--port",
        str(port),
    ]
    with (folder / "log").open("w+b") as log:
        serving = subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=log, stderr=subprocess.DEVNULL)
        try:
            give_up = time.monotonic() + READY_S
            while b" is ready after " not in (folder / "log").read_bytes():
                if serving.poll() is not None or time.monotonic() > give_up:
                    raise RuntimeError("the runtime did not start")
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            serving.terminate()
            serving.wait(60)


def listed(page: Path) -> list[str]:
    """The modules that docs/a-request.md names on its numbered lines, in order."""
    return re.findall(r"^\d+\. `([\w/]+\.py)`", page.read_text("utf-8"), re.MULTILINE)


if __name__ == "__main__":
    for number, module in enumerate(trace(), 1):
        print(f"{number:2} {module}")
