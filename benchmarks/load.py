"""Closed-loop load: wrk for short requests, the runtime's own load generator for texts. Gives rates and latencies."""

import json
import math
import shutil
import subprocess
from pathlib import Path

from serve_app.bench.loops import Measure

POST_LUA = Path(__file__).with_name("post.lua")
NO_WRK = "wrk is not installed; it makes the load. On Debian and Ubuntu: apt-get install -y wrk"


def require_wrk() -> None:
    """Raises SystemExit that says what to do."""
    if shutil.which("wrk") is None:
        raise SystemExit(NO_WRK)


def wrk(url: str, body: Path, connections: int, seconds: int) -> Measure:
    """Posts the body as often as the connections allow."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "60s", "-s", str(POST_LUA), url]
    told = subprocess.run([*command, "--", str(body)], capture_output=True, text=True, check=True)
    counted = json.loads(told.stdout.splitlines()[-1])
    answered = counted["requests"] - counted["refused"]
    if answered <= 0:
        return Measure(0, math.nan, math.nan, counted["refused"] + counted["broken"])
    return Measure(
        answered / (counted["duration"] / 1e6),
        counted["p50"] / 1e3,
        counted["p99"] / 1e3,
        counted["refused"] + counted["broken"],
    )
