"""The HTTP application with a model that is a script: `python -m tests.clients.server`.

It prints its port, and that of gRPC. The script calls each tool once and then says what they gave, writes what a schema
asks for, and greets otherwise; as Qwen's models write it.
"""

import asyncio
import json
import socket
from collections.abc import AsyncGenerator
from typing import Any

import uvicorn

from deployments.contract.chat import Markup, Message
from deployments.contract.chunk import Chunk
from deployments.contract.text_generation import Alternative, PromptToken, TokenLogprob, Usage
from deployments.contract.types import (
    InferRequest,
    TextEmbedding,
    TextEmbeddingResult,
    TextGeneration,
    TextGenerationResult,
)
from deployments.replica.calls import Reply
from serve_app.grpc.server import GrpcServer
from tests.support.http_runtimes import SIGNATURES, FakeRuntime, http_app, status

QWEN = Markup(tool_calls="hermes", reasoning=("<think>", "</think>"))
GREETING = "Hello from the script."


def text_of(request: TextGeneration) -> str:
    messages = request.messages or [Message(role="user", content=request.prompt)]
    results = [message.content for message in messages if message.role == "tool"]
    if request.json_schema is not None:
        return json.dumps(instance(request.json_schema, request.json_schema, late=bool(results)), separators=(",", ":"))
    thought = "<think>\nLet me think.\n</think>\n\n" if request.markup else ""
    if results:
        return f"{thought}They gave {' and '.join(results)}."
    calls = [{"name": tool["name"], "arguments": arguments(tool)} for tool in functions(request)]
    marked = "".join(f"\n<tool_call>\n{json.dumps(call)}\n</tool_call>" for call in calls)
    return thought + (f"I look.{marked}" if calls else GREETING)


def functions(request: TextGeneration) -> list[dict[str, Any]]:
    return [tool["function"] for tool in request.tools or ()]


def arguments(function: dict[str, Any]) -> Any:
    return instance(function["parameters"], function["parameters"])


def instance(schema: dict[str, Any], root: dict[str, Any], late: bool = False) -> Any:
    """Something that the schema allows. `late`: the last alternative, not the first."""
    if "$ref" in schema:
        return instance(root["$defs"][schema["$ref"].rpartition("/")[2]], root, late)
    if alternatives := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
        return instance(alternatives[-1 if late else 0], root, late)
    if "const" in schema or "enum" in schema:
        return schema.get("const", (schema.get("enum") or [None])[0])
    kind = schema.get("type")
    if kind == "object":
        return {name: instance(one, root, late) for name, one in schema.get("properties", {}).items()}
    if kind == "array":
        return [instance(schema.get("items", {}), root, late)]
    return {"integer": 7, "number": 1.5, "boolean": True, "null": None}.get(str(kind), "Paris")


def prompt_of(request: TextGeneration) -> list[PromptToken]:
    """Each token but the first one is as probable as the best one."""
    first, *others = [str(token) for token in request.prompt_ids or (0, 1)]
    best = [Alternative(token="best", logprob=-0.5, utf8=[])]
    told = [PromptToken(token=token, utf8=[], logprob=-0.5, top=best) for token in others]
    return [PromptToken(token=first, utf8=[], logprob=None, top=[]), *told]


def vectors_of(request: TextEmbedding) -> TextEmbeddingResult:
    """Each begins with the length of its text."""
    sizes = [len(one) for one in request.token_ids or request.texts]
    vectors = [[float(size), 0.5, -0.25, 0.1][: request.dimensions] for size in sizes]
    return TextEmbeddingResult(embeddings=vectors, usage=Usage(prompt_tokens=sum(sizes), completion_tokens=0))


async def script(request: InferRequest) -> AsyncGenerator[Reply, None]:
    if isinstance(request, TextEmbedding):
        yield vectors_of(request)
        return
    assert isinstance(request, TextGeneration)
    text, markup = text_of(request), QWEN if request.markup else None
    pieces = [text[at : at + 5] for at in range(0, len(text), 5)][: request.max_tokens]
    text = "".join(pieces)
    told = [TokenLogprob(token=piece, logprob=-0.5, utf8=list(piece.encode()), top=[]) for piece in pieces]
    wanted = request.logprobs is not None
    prompt = prompt_of(request) if request.prompt_logprobs else []
    if prompt:
        yield Chunk("", 0, markup=markup, prompt_logprobs=tuple(prompt))
    for number, piece in enumerate(pieces, 1):
        yield Chunk(piece, number, (told[number - 1],) if wanted else (), markup)
    yield TextGenerationResult(
        generated_text=text,
        finish_reason="stop",
        usage=Usage(prompt_tokens=3, completion_tokens=len(pieces)),
        logprobs=told if wanted else None,
        prompt_logprobs=prompt or None,
        markup=markup,
    )


def main() -> None:
    runtime = FakeRuntime(script)
    runtime.statuses = [status("scripted", "text_generation", [1])]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        asyncio.run(serve(runtime, listener))


async def serve(runtime: FakeRuntime, listener: socket.socket) -> None:
    server = GrpcServer("127.0.0.1:0", runtime.settings, runtime.access, runtime, runtime, SIGNATURES)
    await server.start()
    print(listener.getsockname()[1], server.port, flush=True)
    await uvicorn.Server(uvicorn.Config(http_app(runtime), log_level="warning")).serve(sockets=[listener])
    await server.close()


if __name__ == "__main__":
    main()
