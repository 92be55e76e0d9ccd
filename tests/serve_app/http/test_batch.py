"""Many requests in one body: a JSON list, or JSON lines."""

import asyncio
from typing import Any

import pytest
from starlette.testclient import TestClient
from starlette.types import Message

from deployments.contract import wire
from deployments.contract.types import Error, InferResponse, TextGenerationResult
from serve_app.http import batch
from serve_app.http.batch import NDJSON
from tests.serve_app.http.test_app import TYPE, error_in
from tests.support.http_runtimes import REQUEST, FakeRuntime, http_app
from tests.support.until import until


def codes(lines: bytes) -> list[str | None]:
    responses = [wire.decode(line, wire.JSON, InferResponse) for line in lines.splitlines()]
    return [response.code if isinstance(response, Error) else None for response in responses]


def test_a_list_is_answered_in_order_each_item_with_its_own_error(http: TestClient, runtime: FakeRuntime) -> None:
    response = http.post("/infer/batch", content=b"[" + REQUEST + b', {"Nothing": {}}, 5, ' + REQUEST + b"]")
    assert response.status_code == 200
    assert [answer["Error"]["code"] for answer in response.json()] == [
        "unavailable",
        "invalid_request",
        "invalid_request",
        "unavailable",
    ]
    assert len(runtime.asked) == 2


@pytest.mark.parametrize("body", [REQUEST, b"[", b"[" + b",".join([b"0"] * 1025) + b"]"])
def test_a_body_that_is_no_list_of_requests_is_refused_whole(http: TestClient, body: bytes) -> None:
    response = http.post("/infer/batch", content=body)
    assert response.status_code == 400
    assert error_in(response)["code"] == "invalid_request"


def test_json_lines_are_answered_in_order_each_line_with_its_own_error(http: TestClient) -> None:
    long = b"x" * (2**20 + 1)
    chunks = [REQUEST[:20], REQUEST[20:] + b"\n\n{}\r\n", REQUEST, b"\n" + long]
    response = http.post("/infer/batch", content=iter(chunks), headers={TYPE: NDJSON})
    assert codes(response.content) == ["unavailable", "invalid_request", "unavailable", "payload_too_large"]


class Connection:
    """A client that sends JSON lines one by one, by hand."""

    def __init__(self, runtime: FakeRuntime) -> None:
        self.app = http_app(runtime)
        self.messages: asyncio.Queue[Message] = asyncio.Queue()
        self.body = b""

    def send(self, body: bytes, more: bool = True) -> None:
        self.messages.put_nowait({"type": "http.request", "body": body, "more_body": more})

    async def run(self) -> None:
        headers = [(TYPE.encode(), NDJSON.encode())]
        scope = {"type": "http", "method": "POST", "path": "/infer/batch", "headers": headers, "query_string": b""}

        async def received(message: Message) -> None:
            self.body += message.get("body", b"")

        await self.app(scope, self.messages.get, received)


async def test_a_line_is_answered_while_later_ones_are_still_to_come() -> None:
    connection = Connection(FakeRuntime())
    serving = asyncio.create_task(connection.run())
    connection.send(REQUEST + b"\n")
    await until(lambda: connection.body.count(b"\n") == 1)
    connection.send(b"{}", more=False)
    await serving
    assert codes(connection.body) == ["unavailable", "invalid_request"]


async def test_a_client_that_disconnects_cancels_its_lines() -> None:
    async def silent(request: object) -> object:
        await asyncio.Event().wait()
        yield

    runtime = FakeRuntime(silent)  # type: ignore[arg-type]
    connection = Connection(runtime)
    serving = asyncio.create_task(connection.run())
    connection.send(REQUEST + b"\n")
    await until(lambda: runtime.under_way == 1)
    connection.messages.put_nowait({"type": "http.disconnect"})
    await serving
    await until(lambda: runtime.under_way == 0)


async def test_lines_that_are_answered_soon_after_each_other_are_written_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    lines = [loop.create_future() for _ in range(4)]
    answers: Any = asyncio.Queue()
    for line in (*lines, None):
        answers.put_nowait(line)
    pauses, written = list[float](), list[bytes]()

    async def pause(seconds: float) -> None:
        """Meanwhile the second line is answered."""
        pauses.append(seconds)
        if len(pauses) == 1:
            lines[1].set_result(TextGenerationResult(generated_text="b"))

    async def send(message: Message) -> None:
        written.append(message["body"])
        if message["more_body"]:
            lines[len(written) + 1].set_result(TextGenerationResult(generated_text="c"))

    lines[0].set_result(TextGenerationResult(generated_text="a"))
    monkeypatch.setattr("asyncio.sleep", pause)
    await batch._write(answers, send)
    assert [body.count(b"\n") for body in written] == [2, 1, 1]
    assert pauses[:2] == [0, 0]
    assert 0 < pauses[2] <= batch.WRITES_APART_S
