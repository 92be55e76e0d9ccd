"""`python -m benchmarks.cluster.entrance`: the HAProxy of `serve deploy` is killed, where it is the only entrance.

How long callers are refused, and get an error, until they are answered again; and of four callers who repeat a refused,
cut or retryable request after 2 s and after 5 s more, as those of `make test-faults`, how many requests fail.
"""

import random
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx
import psutil

from benchmarks.cluster.nodes import application, bodies, deploy, wait_until_answered
from tests.cluster.cluster import started_cluster
from tests.faults.served import Load, kill
from tests.support.tiny_models import save_image_model, save_text_model
from tests.support.until import wait_until

TIMES = 3
SERVE_LOOKS_EVERY_S = 10.0
WHOLE_S = 45.0
"""So long without a failure it is taken to be whole: within it Serve has started HAProxy's manager anew."""
EVERY_S = 0.05
BODY: dict[str, object] = {"TextGeneration": {"model_id": "text", "prompt": "a", "max_tokens": 16}}


def seen(url: str) -> str:
    try:
        reply = httpx.get(f"{url}/readyz", timeout=10)
    except httpx.ConnectError:
        return "refused"
    except httpx.TransportError as failure:
        return type(failure).__name__
    return str(reply.status_code)


def outage(url: str) -> dict[str, float]:
    """From now on: until when each kind of failure was seen, seconds."""
    begun, last = time.monotonic(), dict[str, float]()
    while (now := time.monotonic() - begun) - max(last.values(), default=0.0) < WHOLE_S:
        if (what := seen(url)) != "200":
            last[what] = now
        time.sleep(EVERY_S)
    return last


def haproxies() -> list[psutil.Process]:
    return [process for process in psutil.Process().children(recursive=True) if process.name() == "haproxy"]


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        models = Path(name) / "models"
        save_text_model(models / "text")
        save_image_model(models / "image")
        files = bodies(Path(name))
        with started_cluster(models) as cluster:
            try:
                deploy(cluster, application(cluster, "", 0.5))
                wait_until_answered(f"{cluster.url}/infer", files)
                for _ in range(TIMES):
                    time.sleep(SERVE_LOOKS_EVERY_S * random.random())
                    load = Load(cluster.url, BODY)
                    with load.running():
                        wait_until(lambda load=load: load.answered > 20, "the load runs")  # type: ignore[misc]
                        for process in haproxies():
                            kill(process)
                        until_s = outage(cluster.url)
                    shown = ", ".join(f"{what} until {at:.1f} s" for what, at in until_s.items()) or "always answered"
                    print(
                        f"{shown}; {load.answered} answered, {len(load.failed)} failed {dict(Counter(load.failed))}, "
                        f"{load.refused} tries repeated, the longest took {load.longest_s:.1f} s",
                        flush=True,
                    )
            finally:
                cluster.stop_serve()


if __name__ == "__main__":
    main()
