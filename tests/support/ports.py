"""TCP ports for servers that tests start."""

import os
import random
import socket

LOW, HIGH = 5_000, 10_000
"""Below those that Ray's workers take, and those that the system gives to outgoing connections."""


def _ports() -> list[int]:
    """In random order. Workers of pytest-xdist share the range out among them."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    mine = range(LOW + worker, HIGH, workers)
    return random.SystemRandom().sample(mine, len(mine))


PORTS = _ports()


def free_port() -> int:
    """A port that nothing listens on. Each is given out once: its server may start much later."""
    while True:
        port = PORTS.pop()
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
