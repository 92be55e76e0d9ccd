"""OpenAI's client, and a plain one, of the application around a test's `runtime`, in one process."""

from collections.abc import AsyncIterator

import httpx2
import pytest
from openai import AsyncOpenAI

from tests.support.http_runtimes import FakeRuntime, http_app


@pytest.fixture
async def http(runtime: FakeRuntime) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(http_app(runtime), raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://runtime") as client:
        yield client


@pytest.fixture
def client(http: httpx2.AsyncClient) -> AsyncOpenAI:
    return AsyncOpenAI(base_url="http://runtime/v1", api_key="none", http_client=http, max_retries=0)
