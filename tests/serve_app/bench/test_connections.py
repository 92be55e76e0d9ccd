"""Connections against a real server: what is sent, and what of the answers is understood."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from deployments.contract import wire
from deployments.contract.errors import Overloaded
from deployments.contract.text_generation import Usage
from deployments.contract.types import Error, InferResponse, TextGenerationResult
from serve_app.bench.connections import Connections, Sent

RESULT = TextGenerationResult(generated_text="ab", usage=Usage(prompt_tokens=1, completion_tokens=2))
SENT = Sent(b'{"TextGeneration": {}}', "m")


def plain(response: InferResponse, status: str = "200 OK", more: str = "") -> bytes:
    body = wire.encode(response, wire.JSON)
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


def stream(*events: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(event), event) for event in (*events, b""))


TOKEN = b'event: token\ndata: {"text": "a", "index": 1}\n\n'
END = b"event: result\ndata: " + wire.encode(RESULT, wire.JSON) + b"\n\n"


@dataclass
class Server:
    url: str = ""
    answer: bytes = b""
    opened: int = 0
    heads: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = int(head.lower().partition("content-length: ")[2].partition("\r\n")[0])
                assert await reader.readexactly(length) == SENT.body
                self.heads.append(head)
                if not self.answer:
                    break
                writer.write(self.answer)
        except asyncio.IncompleteReadError:
            pass
        writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    state = Server()
    listening = await asyncio.start_server(state.serve, "127.0.0.1", 0)
    state.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    yield state
    listening.close()


@pytest.fixture
async def connections(server: Server) -> AsyncIterator[Connections]:
    connections = Connections(f"{server.url}/prefix/", {"authorization": "Bearer k"})
    yield connections
    await connections.close()


async def test_an_answer_counts_and_its_connection_is_used_again(server: Server, connections: Connections) -> None:
    server.answer = plain(RESULT)
    for _ in range(3):
        answer = await connections.ask(SENT)
    assert (answer.amount, answer.tokens, answer.first_at, answer.error) == (1, 2, None, "")
    assert server.opened == 1
    assert server.heads[0].startswith("POST /prefix/infer HTTP/1.1\r\n")
    assert "authorization: Bearer k\r\n" in server.heads[0]


async def test_a_stream_says_when_its_first_text_came(server: Server, connections: Connections) -> None:
    server.answer = stream(b": comment\n\n", TOKEN, TOKEN + END)
    begun = asyncio.get_running_loop().time()
    answer = await connections.ask(SENT)
    assert (answer.tokens, answer.error) == (2, "")
    assert answer.first_at is not None
    assert begun <= answer.first_at <= asyncio.get_running_loop().time()


async def test_failures_are_told_by_their_codes(server: Server, connections: Connections) -> None:
    refused = Error.of(Overloaded("full"))
    server.answer = plain(refused, "429 Too Many Requests")
    assert (await connections.ask(SENT)).error == "overloaded"
    server.answer = stream(TOKEN, b"event: result\ndata: " + wire.encode(refused, wire.JSON) + b"\n\n")
    assert (await connections.ask(SENT)).error == "overloaded"
    server.answer = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 3\r\n\r\n<p>"
    assert (await connections.ask(SENT)).error == "status 502"


async def test_a_connection_that_the_server_closes_is_not_used_again(server: Server, connections: Connections) -> None:
    server.answer = plain(RESULT, more="Connection: close\r\n")
    await connections.ask(SENT)
    await connections.ask(SENT)
    assert server.opened == 2
    server.answer = b""
    assert (await connections.ask(SENT)).error == "connection: IncompleteReadError"


async def test_what_cannot_be_reached_or_does_not_answer_is_an_error(server: Server) -> None:
    assert (await Connections("http://127.0.0.1:1").ask(SENT)).error.startswith("connection: ")
    server.answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"
    assert (await Connections(server.url, timeout_s=0.05).ask(SENT)).error == "no answer"
