"""`model-runtime top`: families, models, memory, queues, rates and the last errors of a running runtime, live."""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
from rich.console import Console
from rich.live import Live

from deployments.contract.errors import ServingError, Unavailable
from serve_app.cli import connection
from serve_app.client.client import ModelRuntimeClient
from serve_app.client.transports import bearer
from serve_app.top.sampling import History, Sample, read
from serve_app.top.screen import screen, time_of_day

PRINTED_WIDTH = 200
"""Where there is no terminal."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--every", type=float, default=1.0, metavar="SECONDS", help="between two looks (default: 1)")
    connection.add_arguments(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """On a terminal until Ctrl-C; elsewhere two looks, and what the second one shows, once. Raises ServingError."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PRINTED_WIDTH
    with _looks(options) as look:
        history = History()
        history.add(look())
        if not console.is_terminal:
            time.sleep(options.every)
            history.add(look())
            console.print(screen(options.url, history, time_of_day), soft_wrap=True)
            return 0
        with Live(screen(options.url, history, time_of_day), console=console, screen=True, auto_refresh=False) as live:
            try:
                while True:
                    time.sleep(options.every)
                    live.update(screen(options.url, history, time_of_day, look_again(history, look)), refresh=True)
            except KeyboardInterrupt:
                return 0


def look_again(history: History, look: Callable[[], Sample]) -> str:
    """Adds a sample to the history. Why there is none, if so: the runtime may be starting again."""
    try:
        history.add(look())
    except ServingError as failure:
        return failure.message
    return ""


@contextmanager
def _looks(options: argparse.Namespace) -> Iterator[Callable[[], Sample]]:
    key = connection.api_key(options)
    with ModelRuntimeClient(options.url, api_key=key) as client, httpx.Client(headers=bearer(key), timeout=10) as http:

        def look() -> Sample:
            models = client.models()
            try:
                metrics = http.get(f"{options.url}/metrics").raise_for_status().text
            except httpx.HTTPError as failure:
                raise Unavailable(f"/metrics: {failure}") from None
            return read(time.time(), metrics, models)

        yield look
