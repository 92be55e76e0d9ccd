from collections.abc import Iterator

import pytest

from tests.support.http_server import Answering, answering


@pytest.fixture
def server() -> Iterator[Answering]:
    with answering() as server:
        yield server
