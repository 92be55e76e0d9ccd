"""`python -m benchmarks.http.watching access_log|traces|off`: what it costs that each request is logged, or traced.

Two runtimes with the same small model, one with `ingress.access_log` or `ingress.traces`, both running; spans go to a
server that throws them away. Each in turn is asked on 64 connections. `off`: the nanoseconds that a request pays for
traces that are not on, which is less than a pair of runs can show.
"""

import argparse
import json
import statistics
import tempfile
import threading
import timeit
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from starlette.requests import Request

from benchmarks.load import require_wrk, wrk
from benchmarks.models import jpeg, save_tiny_resnet
from benchmarks.servers import running, settle
from benchmarks.vision.image import ours
from serve_app.access.caller import TRACE_HEADER

CONNECTIONS = 64
TIMES = 200_000


class Collector(BaseHTTPRequestHandler):
    """Takes spans, and does nothing with them."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["access_log", "traces", "off"])
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--seconds", type=int, default=4)
    options = parser.parse_args()
    if options.what == "off":
        print(f"traces that are off: {nanoseconds_off():.0f} ns a request")
    else:
        require_wrk()
        compare(options.what, options.pairs, options.seconds)


def nanoseconds_off() -> float:
    """To read the header, once the request has its headers, and to find that nobody wants it."""
    headers = [(b"host", b"127.0.0.1:8000"), (b"content-type", b"application/json"), (b"content-length", b"2800")]
    request = Request({"type": "http", "headers": headers})
    names = {"headers": request.headers, "name": TRACE_HEADER, "traced": None}
    return min(timeit.repeat("headers.get(name, '')\ntraced is not None", globals=names, number=TIMES)) / TIMES * 1e9


def compare(setting: str, pairs: int, seconds: int) -> None:
    with tempfile.TemporaryDirectory() as name, ThreadingHTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        folder = Path(name)
        model, picture = save_tiny_resnet(folder / "pictures" / "tiny"), jpeg(96, 72, 0, at_most_bytes=2048)
        (folder / "watched.yaml").write_text(f"ingress: {{{setting}: true}}\n")
        plain = ours(model.parent, model.name)
        watched = replace(
            plain,
            command=(*plain.command, "--config", folder / "watched.yaml"),
            environment={"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}"},
        )
        (folder / "body.json").write_text(json.dumps(plain.body(picture)), "utf-8")
        ratios = []
        with running(watched, picture) as with_it, running(plain, picture) as without:
            for url in (with_it, without) * 2:
                wrk(url, folder / "body.json", CONNECTIONS, seconds)
            settle(60)
            for number in range(pairs):
                order = (with_it, without) if number % 2 == 0 else (without, with_it)
                rates = {url: wrk(url, folder / "body.json", CONNECTIONS, seconds).rate for url in order}
                ratios.append(rates[with_it] / rates[without])
                print(f"{rates[with_it]:.0f} / {rates[without]:.0f} = {ratios[-1]:.3f}", flush=True)
        collector.shutdown()
    print(f"median {statistics.median(ratios):.3f} ({min(ratios):.3f}–{max(ratios):.3f}), {len(ratios)} pairs")


if __name__ == "__main__":
    main()
