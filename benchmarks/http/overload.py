"""`overload`: ten times what a model of a hundred requests a second can answer, and what becomes of it."""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.contest import Pace
from benchmarks.environment import FOLDER
from benchmarks.http.open_loop import Answered, Caller, percentile, quantile
from benchmarks.report import US, Claims
from benchmarks.servers import Server, running, settle, work_of_others

CALLERS = 64
"""As many as the model has slots."""
TIMES = 10
RECOVERED_S = 5.0
REFUSED_MS = 50.0
IDLE_MS = 1.0
"""Of the device between two requests: what handing it over takes."""


def run(pace: Pace, folder: Path) -> list[Claims]:
    config = folder / "runtime.yaml"
    # One replica: a second one would double what the peak can be.
    config.write_text(f"models: {folder}\nfamilies: {{paced: {{autoscaling: {{max_replicas: 1}}}}}}\n")
    server = Server(
        US,
        (sys.executable, "-m", "benchmarks.http.serve_family", "paced", "--config", config, "--port", "{port}"),
        "/infer",
        lambda text: {"Paced": {"model_id": "", "text": text}},
        _text,
        {"PYTHONPATH": str(FOLDER.parent)},  # So that Ray's processes find the family.
    )
    with running(server, "x") as url:
        settle(pace.settle_s)
        return [asyncio.run(_measure(url, json.dumps(server.body("x")).encode(), pace.seconds))]


def _text(reply: Any) -> str:
    return str(reply["PacedResult"]["text"])


async def _measure(url: str, body: bytes, seconds: float) -> Claims:
    caller = Caller(url, body)
    await caller.by(4, 2)
    quiet = await caller.at(50, seconds)
    peak = await caller.by(CALLERS, seconds)
    rate = _goodput(peak)
    with work_of_others() as others:
        flood = await caller.at(TIMES * rate, 2 * seconds)
    late_ms = quantile(caller.late_ms, 0.99)
    after_at = time.perf_counter()
    after = await caller.at(rate / 2, 2 * RECOVERED_S)
    caller.close()
    refused = [answer for answer in flood if answer.status != 200]
    unlike = [answer for answer in refused if answer.status not in (429, 503) or not answer.retry_after]
    slow = [answer for answer in after if answer.status != 200 or answer.took_ms > 2 * percentile(quiet, 0.99) + 20]
    recovered_s = max((answer.start - after_at for answer in slow), default=0.0)
    share = _goodput(flood) / rate
    longer = percentile(_good(flood), 0.99) / percentile(_good(peak), 0.99)
    refused_ms = percentile(refused, 0.99)
    idle_ms = quantile(_idle_ms(flood), 0.99)
    return Claims(
        f"Overload: {TIMES} times {rate:.0f} requests/s",
        [
            ("goodput, of its peak", f"{share:.0%}", "90 %"),
            ("accepted p99, to that at the peak", f"{longer:.2f}×", "2×"),
            ("refused, p99", f"{refused_ms:.1f} ms", "50 ms"),
            ("refused otherwise than by 429 or 503 with Retry-After", f"{len(unlike)} of {len(refused)}", "0"),
            ("the device idle between two requests meanwhile, p99", f"{idle_ms:.1f} ms", f"{IDLE_MS:.0f} ms"),
            ("back to normal after", f"{recovered_s:.1f} s", "5 s"),
        ],
        [
            f"Peak: {CALLERS} callers, each asking again at once, p99 {percentile(_good(peak), 0.99):.0f} ms; "
            f"at 50/s p99 {percentile(quiet, 0.99):.0f} ms.",
            f"Flood: {len(flood)} requests of an open loop. {len(refused)} refused, p50 {percentile(refused, 0.5):.1f} "
            f"ms; the others p50 {percentile(_good(flood), 0.5):.0f} ms, p99 {percentile(_good(flood), 0.99):.0f} ms.",
            f"The caller itself was up to {late_ms:.1f} ms late (p99), which is part of these times. Meanwhile other "
            f"processes used {others.share:.0%} of the machine.",
        ],
        share < 0.9
        or longer > 2
        or refused_ms > REFUSED_MS
        or bool(unlike)
        or idle_ms > IDLE_MS
        or recovered_s > RECOVERED_S,
    )


def _idle_ms(flood: list[Answered]) -> list[float]:
    """Before each request that was taken while others were refused."""
    refused = [answer.end for answer in flood if answer.status != 200]
    shedding = [answer for answer in _good(flood) if refused and min(refused) < answer.end < max(refused)]
    return [float(json.loads(answer.body)["PacedResult"]["idle_ms"]) for answer in shedding]


def _good(answers: list[Answered]) -> list[Answered]:
    return [answer for answer in answers if answer.status == 200]


def _goodput(answers: list[Answered]) -> float:
    good = _good(answers)
    return len(good) / (max(answer.end for answer in good) - min(answer.start for answer in good))
