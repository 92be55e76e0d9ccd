"""`python -m benchmarks.text.way`: where the time of one text request at a time goes, beside the bare engine.

A Llama of 6 M parameters, 64 tokens, every prompt new, a client of one socket and no thread. In the replica the engine
counts its own time (`/metrics`), so what is left of the client's time is the way; the engine's own time beside the bare
engine's is what else runs on its cores. Once more with every process stopped that does not answer requests.
"""

import http.client
import itertools
import json
import re
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psutil
from transformers.utils.logging import disable_progress_bar

from benchmarks.models import save_llama
from benchmarks.servers import plain_environment, settle, started
from benchmarks.text.text import PROMPTS
from deployments.contract.chunk import Chunk
from deployments.contract.types import SamplingOptions
from deployments.engines.text.engine import TextGenerationEngine
from deployments.engines.text.request import Event
from serve_app.bench.machine import machine

PROJECT = Path(__file__).parents[2]
PORT, TOKENS, SECONDS, READY_S, SETTLE_S = 18_427, 64, 6.0, 300.0, 30.0
ANSWERING = re.compile("haproxy -|Ingress|TextGeneration")
SUMS = ("text_queue_seconds_sum", "text_time_to_first_token_seconds_sum", "text_inter_token_seconds_sum")


class Sample(NamedTuple):
    """Milliseconds of a request: of the client (median, mean), of the engine in the replica (mean); and who computed,
    in milliseconds of CPU for each request."""

    median: float
    mean: float
    engine: float
    cpu: dict[str, float]

    def __str__(self) -> str:
        busy = ", ".join(f"{name} {ms:.1f}" for name, ms in sorted(self.cpu.items(), key=lambda one: -one[1])[:8])
        return f"{self.median:.1f} | {self.mean:.1f} | {self.engine:.1f} | {self.mean - self.engine:.1f} | {busy}"


def numbered() -> Iterator[str]:
    return (f"{number} {prompt}" for number, prompt in enumerate(itertools.cycle(PROMPTS)))


def timed(ask: Callable[[str], object], seconds: float = SECONDS) -> list[float]:
    prompts, times = numbered(), list[float]()
    end = time.perf_counter() + seconds
    while (begun := time.perf_counter()) < end:
        ask(next(prompts))
        times.append((time.perf_counter() - begun) * 1_000)
    return times


class Client:
    def __init__(self) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)

    def ask(self, prompt: str, stream: bool = False) -> None:
        request = {"model_id": "llama", "prompt": prompt, "max_tokens": TOKENS, "stream": stream}
        body = json.dumps({"TextGeneration": request})
        self._connection.request("POST", "/infer", body, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        text = answer.read()
        assert answer.status == 200, text

    def get(self, path: str) -> str:
        self._connection.request("GET", path)
        return self._connection.getresponse().read().decode()

    def engine_ms(self) -> float:
        """Of all requests so far. The aggregator asks replicas when it is asked itself."""
        text = self.get("/metrics")
        _, first, between = (
            sum(float(value) for value in re.findall(rf"^{name}\{{.*\}} (\S+)$", text, re.MULTILINE)) for name in SUMS
        )
        return (first + between) * 1_000


def sample(client: Client, root: psutil.Process, stream: bool) -> Sample:
    processes = [root, *root.children(recursive=True)]
    timed(lambda prompt: client.ask(prompt, stream), 1.0)
    cpu, engine = _cpu_ms(processes), client.engine_ms()
    times = timed(lambda prompt: client.ask(prompt, stream))
    engine, after = client.engine_ms() - engine, _cpu_ms(processes)
    used = {name: (ms - cpu.get(name, ms)) / len(times) for name, ms in after.items()}
    return Sample(statistics.median(times), statistics.mean(times), engine / len(times), used)


def _cpu_ms(processes: list[psutil.Process]) -> dict[str, float]:
    found: dict[str, float] = {}
    for process in processes:
        with suppress(psutil.Error):
            name = " ".join(process.cmdline() or [process.name()]).split("/")[-1][:40].strip()
            found[name] = found.get(name, 0.0) + sum(process.cpu_times()[:2]) * 1_000
    return found


@contextmanager
def others_stopped(root: psutil.Process) -> Iterator[None]:
    """Everything but HAProxy, the ingress and the replica of texts."""
    stopped = []
    for process in [root, *root.children(recursive=True)]:
        with suppress(psutil.Error):
            if not ANSWERING.search(" ".join(process.cmdline())):
                stopped.append(process)
                process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in stopped:
            with suppress(psutil.Error):
                process.send_signal(signal.SIGCONT)


def bare(folder: Path) -> float:
    """Milliseconds of a request to the engine alone, the median."""
    engine = TextGenerationEngine.load(folder)
    ended = threading.Event()

    def emit(event: Event) -> None:
        if not isinstance(event, Chunk):
            ended.set()

    def ask(prompt: str) -> None:
        ended.clear()
        engine.submit(prompt, TOKENS, SamplingOptions(), emit, stream=False)
        ended.wait()

    timed(ask, 1.0)
    times = timed(ask)
    engine.close()
    return statistics.median(times)


def main() -> None:
    disable_progress_bar()
    print(machine())
    with tempfile.TemporaryDirectory(prefix="way", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        model = save_llama(folder / "models" / "llama")
        print(f"bare engine: {bare(model):.1f} ms")
        print("| | median ms | mean | engine | way | CPU ms of a request |\n|---|--:|--:|--:|--:|---|")
        program = str(PROJECT / ".venv" / "bin" / "model-runtime")
        command = [program, "serve", "--models", str(model.parent), "--port", str(PORT)]
        environment = plain_environment(folder) | {"PYTHONPATH": str(PROJECT)}
        with started(command, environment, folder) as (process, log):
            give_up = time.monotonic() + READY_S
            while "is ready after" not in (text := log.read_text("utf-8")):
                if process.poll() is not None or time.monotonic() > give_up:
                    raise SystemExit(f"it did not start:\n{text}")
                time.sleep(0.5)
            client, root = Client(), psutil.Process(process.pid)
            client.ask("a")
            while "being converted" in client.get("/models/llama"):
                time.sleep(0.5)
            settle(SETTLE_S)
            for kind, stream in (("whole", False), ("streamed", True)):
                print(f"| {kind} | {sample(client, root, stream)} |", flush=True)
            times: list[float] = []
            with others_stopped(root):
                times = timed(client.ask, SECONDS / 2)
            print(
                f"| whole, the others stopped | {statistics.median(times):.1f} | {statistics.mean(times):.1f} | | | |"
            )
        print(f"bare engine again: {bare(model):.1f} ms")


if __name__ == "__main__":
    main()
