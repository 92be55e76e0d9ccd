"""The scripted server, which runs in the project's own environment. These tests run in one of their own."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def ports() -> Iterator[tuple[str, str]]:
    command = [PROJECT / ".venv" / "bin" / "python", "-m", "tests.clients.server"]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            http, grpc = server.stdout.readline().split()
            yield http, grpc
        finally:
            server.terminate()


@pytest.fixture(scope="session")
def url(ports: tuple[str, str]) -> str:
    return f"http://127.0.0.1:{ports[0]}/v1"


@pytest.fixture(scope="session")
def grpc_address(ports: tuple[str, str]) -> str:
    return f"127.0.0.1:{ports[1]}"
