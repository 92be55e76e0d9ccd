"""`python -m benchmarks.http.generator`: is the load generator right?

Beside a server that answers after 100 ms: what `model-runtime bench` says of it. Beside wrk: both send the runtime the
same picture, in turn, and the ratio of their rates.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from benchmarks.environment import FOLDER, OUR_BIN
from benchmarks.load import require_wrk, wrk
from benchmarks.servers import Server, running, settle
from benchmarks.vision.image import ours
from deployments.families.image_classification.family import SAMPLE_IMAGE

DELAY_S = 0.1
CONNECTIONS = 16
ANSWER = {"ImageClassificationResult": {"class_labels": ["a"], "probabilities": [1.0]}}


def serve_delayed(port: int) -> None:
    """Answers each request `DELAY_S` after it came."""

    async def infer(request: Request) -> Response:
        ends = asyncio.get_running_loop().time() + DELAY_S
        await request.body()
        await asyncio.sleep(ends - asyncio.get_running_loop().time())
        return JSONResponse(ANSWER)

    async def models(request: Request) -> Response:
        return JSONResponse({"models": []})

    routes = [Route("/infer", infer, methods=["POST"]), Route("/models", models)]
    uvicorn.run(Starlette(routes=routes), port=port, log_level="critical")


def bench(url: str, body: Path, seconds: int) -> tuple[float, float]:
    """Requests a second and the median latency, as `model-runtime bench` reports them."""
    saved = body.with_name("report.json")
    command: list[str | Path] = [OUR_BIN / "model-runtime", "bench", url.removesuffix("/infer"), "--requests", body]
    command += ["--warm-up", "1", "--connections", str(CONNECTIONS), "--seconds", str(seconds), "--save", saved]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    whole = json.loads(saved.read_text("utf-8"))["whole"]
    return whole["requests_per_s"], whole["seconds"]["latency"]["p50"]


def beside_delays(server: Server, picture: bytes, body: Path, seconds: int) -> None:
    command = (sys.executable, "-m", "benchmarks.http.generator", "--delayed", "{port}")
    delayed = replace(server, command=command, environment={"PYTHONPATH": str(FOLDER.parent)})
    with running(delayed, picture) as url:
        rate, latency = bench(url, body, seconds)
    print(f"answers after {DELAY_S * 1000:.0f} ms: p50 {latency * 1000:.2f} ms, {latency / DELAY_S:.3f} of it")
    print(f"{rate:.1f} requests/s, {rate * DELAY_S / CONNECTIONS:.3f} of {CONNECTIONS / DELAY_S:.0f}", flush=True)


def beside_wrk(server: Server, picture: bytes, body: Path, pairs: int, seconds: int) -> None:
    ratios = []
    with running(server, picture) as url:
        bench(url, body, seconds)
        settle(60)
        for number in range(pairs):
            rates = {}
            for name in ("bench", "wrk") if number % 2 == 0 else ("wrk", "bench"):
                use_wrk = name == "wrk"
                rates[name] = wrk(url, body, CONNECTIONS, seconds).rate if use_wrk else bench(url, body, seconds)[0]
            ratios.append(rates["bench"] / rates["wrk"])
            print(f"bench {rates['bench']:.1f}, wrk {rates['wrk']:.1f}: {ratios[-1]:.3f}", flush=True)
    print(f"median {statistics.median(ratios):.3f} ({min(ratios):.3f}–{max(ratios):.3f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--seconds", type=int, default=6)
    parser.add_argument("--delayed", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.delayed:
        serve_delayed(options.delayed)
        return
    require_wrk()
    server, picture = ours(FOLDER.parent / "models", "image_classifier_v1"), SAMPLE_IMAGE.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        body = Path(folder) / "body.jsonl"
        body.write_text(json.dumps(server.body(picture)) + "\n", "utf-8")
        beside_delays(server, picture, body, options.seconds)
        beside_wrk(server, picture, body, options.pairs, options.seconds)


if __name__ == "__main__":
    main()
