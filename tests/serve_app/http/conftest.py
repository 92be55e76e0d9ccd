from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from tests.support.http_runtimes import FakeRuntime, http_app


@pytest.fixture
def runtime() -> FakeRuntime:
    return FakeRuntime()


@pytest.fixture
def http(runtime: FakeRuntime) -> Iterator[TestClient]:
    with TestClient(http_app(runtime), raise_server_exceptions=False) as client:
        yield client
