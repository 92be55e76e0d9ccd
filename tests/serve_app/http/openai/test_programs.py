"""Requests as programs send them that are no packages: Continue (chats, completion in an editor) and Open WebUI."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from tests.support.http_runtimes import FakeRuntime, http_app, saying_hey, status

CONTINUE: dict[str, Any] = {
    "model": "m",
    "messages": [{"role": "system", "content": "You are a coder."}, {"role": "user", "content": "hi"}],
    "max_tokens": 4096,
    "temperature": None,
    "top_p": None,
    "frequency_penalty": None,
    "presence_penalty": None,
    "stop": ["<|im_end|>", "<|endoftext|>"],
    "stream": True,
    "stream_options": {"include_usage": True},
    "parallel_tool_calls": False,
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "read_file",
                "description": "Reads a file",
                "parameters": {"type": "object", "required": ["path"], "properties": {"path": {"type": "string"}}},
            },
        }
    ],
}
EDITOR: dict[str, Any] = {
    "model": "m",
    "prompt": "<fim_prefix>def f(x):\n    <fim_suffix>\n<fim_middle>",
    "max_tokens": 2048,
    "temperature": 0.01,
    "stop": ["<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<file_sep>", "\n\n", "/src/", "```"],
    "stream": True,
}
OPEN_WEBUI: dict[str, Any] = {
    "stream": True,
    "model": "m",
    "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
    "stream_options": {"include_usage": True},
    "temperature": 0.8,
    "max_tokens": 128,
    "user": {"name": "a", "id": "1", "email": "a@example.org", "role": "admin"},
}
TITLE: dict[str, Any] = {
    "model": "m",
    "messages": [{"role": "user", "content": "### Task:\nGenerate a title."}],
    "stream": False,
    "max_completion_tokens": 1000,
}


@pytest.fixture
async def http() -> AsyncIterator[httpx2.AsyncClient]:
    runtime = FakeRuntime(saying_hey())
    runtime.statuses = [status("m", "text_generation", [1])]
    transport = httpx2.ASGITransport(http_app(runtime), raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://runtime/v1") as client:
        yield client


def streamed(reply: httpx2.Response) -> str:
    """The text of a stream that ends as it should, with its usage where that was asked for."""
    assert reply.status_code == 200, reply.text
    lines = [line.removeprefix("data: ") for line in reply.text.splitlines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    chunks = [json.loads(line) for line in lines]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert choices[-1]["finish_reason"] == "stop"
    return "".join(choice["text"] if "text" in choice else choice["delta"].get("content") or "" for choice in choices)


@pytest.mark.parametrize(
    ("path", "body"), [("/chat/completions", CONTINUE), ("/completions", EDITOR), ("/chat/completions", OPEN_WEBUI)]
)
async def test_what_they_stream_is_answered(path: str, body: dict[str, Any], http: httpx2.AsyncClient) -> None:
    reply = await http.post(path, json=body, headers={"Authorization": "Bearer none", "api-key": "none"})
    assert streamed(reply) == "hey"
    assert ('"usage":{' in reply.text) == ("stream_options" in body)


async def test_a_title_is_answered(http: httpx2.AsyncClient) -> None:
    reply = await http.post("/chat/completions", json=TITLE)
    assert reply.json()["choices"][0]["message"]["content"] == "hey"


async def test_models_are_listed_for_a_connection_without_a_key(http: httpx2.AsyncClient) -> None:
    headers = {"Authorization": "Bearer ", "X-OpenWebUI-User-Name": "a", "X-OpenWebUI-User-Id": "1"}
    reply = await http.get("/models", headers=headers)
    assert [model["id"] for model in reply.json()["data"]] == ["m"]
