"""Whatever goes wrong is an Error in the contract's shape, on every entrance."""

import asyncio
import socket

import httpx
import pytest

from deployments.contract import wire
from deployments.contract.errors import DeadlineExceeded, ModelNotFound, ServingError
from deployments.contract.types import Error, ImageClassification, TextGeneration
from serve_app.client import AsyncModelRuntimeClient, ModelRuntimeClient
from tests.support.echo import Echo
from tests.support.entrances import ENTRANCES, Entrance
from tests.support.running import Running


@pytest.fixture(params=ENTRANCES)
def entrance(request: pytest.FixtureRequest) -> Entrance:
    return ENTRANCES[request.param]


FAILURES = {
    "model_not_found": TextGeneration(model_id="../text", prompt="p", max_tokens=1),
    "wrong_family": ImageClassification(model_id="text", image_data=b"x"),
    "invalid_image": ImageClassification(model_id="image", image_data=b"\x89PNG no picture"),
    "prompt_too_long": TextGeneration(model_id="text", prompt="word " * 500, max_tokens=1),
    "model_load_failed": TextGeneration(model_id="broken", prompt="p", max_tokens=1),
    "out_of_memory": TextGeneration(model_id="huge", prompt="p", max_tokens=1),
    "internal": Echo(model_id="any", text="fail"),
}


@pytest.mark.parametrize("code", FAILURES)
def test_every_failure_is_an_error_on_every_entrance(runtime: Running, entrance: Entrance, code: str) -> None:
    answer = entrance(runtime, FAILURES[code])
    assert isinstance(answer, Error)
    # bincode and exceptions carry what they can; on /v2 the model's own family says which inputs there are.
    assert answer.code in (code, None) or (answer.code, code) == ("invalid_request", "wrong_family")
    assert answer.message
    for secret in ("Traceback", "secret", str(runtime.models)):
        assert secret not in answer.message


@pytest.mark.parametrize("body", [b"", b"[]", b'{"TextGeneration":{"model_id":"text","prompt":"p","max_tokens":"1"}}'])
def test_malformed_requests_are_refused_over_http(runtime: Running, body: bytes) -> None:
    reply = httpx.post(f"{runtime.url}/infer", content=body, headers={"content-type": wire.JSON})
    assert reply.status_code == 400
    assert reply.json()["Error"]["code"] == "invalid_request"


def test_an_oversized_body_is_refused(runtime: Running) -> None:
    reply = httpx.post(f"{runtime.url}/infer", content=b"x" * (2**20 + 1), headers={"content-type": wire.JSON})
    assert reply.status_code == 413
    assert reply.json()["Error"]["code"] == "payload_too_large"
    assert reply.json()["Error"]["request_id"] == reply.headers["x-request-id"]


def test_the_handle_refuses_what_is_no_request(runtime: Running) -> None:
    answer = runtime.handle.infer.remote({"TextGeneration": {}}).result(timeout_s=60)
    assert isinstance(answer, Error)
    assert answer.code == "invalid_request"


def test_a_client_raises_the_error_its_code_names(runtime: Running) -> None:
    with ModelRuntimeClient(runtime.url) as client, pytest.raises(ModelNotFound, match="did you mean 'text'"):
        client.generate("texd", "p", max_tokens=1)


def test_a_client_waits_no_longer_than_it_was_told(runtime: Running) -> None:
    async def ask() -> None:
        async with AsyncModelRuntimeClient(runtime.handle, timeout_s=0.1) as client:
            await client.infer(Echo(model_id="any", text="slow"))

    with ModelRuntimeClient(runtime.handle, timeout_s=0.1) as client, pytest.raises(DeadlineExceeded):
        client.infer(Echo(model_id="any", text="slow"))
    with pytest.raises(DeadlineExceeded):
        asyncio.run(ask())


def test_a_client_that_reaches_nobody_says_so() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with ModelRuntimeClient(url) as client, pytest.raises(ServingError, match="cannot be reached"):
            client.models()
