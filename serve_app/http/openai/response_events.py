"""Builds a response of OpenAI's /v1/responses: its output items, and the events of a stream."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Literal

from deployments.contract.chat import Markup
from deployments.contract.chunk import Chunk
from deployments.contract.errors import Cancelled
from deployments.contract.text_generation import TokenLogprob, Usage
from deployments.contract.types import Error, TextGenerationResult
from deployments.replica.calls import Reply
from serve_app.http.openai.parsing.delta import CallDelta, Delta
from serve_app.http.openai.parsing.output import OutputParser
from serve_app.http.openai.responses import Object, token_logprob
from serve_app.http.sse import Events, StartedStream, data

_Kind = Literal["reasoning", "message", "function_call"]
_PREFIX = {"reasoning": "rs", "message": "msg", "function_call": "fc"}


@dataclass(slots=True)
class _Item:
    """One output item. `text`: its text, its reasoning or its arguments."""

    kind: _Kind
    id: str
    index: int
    text: str = ""
    call: CallDelta | None = None
    logprobs: list[Object] = field(default_factory=list)

    def object(self, status: str) -> Object:
        whole: Object = {"id": self.id, "type": self.kind, "status": status}
        if self.call:
            return whole | {"call_id": self.call.id, "name": self.call.name, "arguments": self.text}
        content = [self.part()] if self.text or status != "in_progress" else []
        if self.kind == "reasoning":
            return whole | {"summary": [], "content": content}
        return whole | {"role": "assistant", "content": content}

    def part(self) -> Object:
        if self.kind == "reasoning":
            return {"type": "reasoning_text", "text": self.text}
        return {"type": "output_text", "text": self.text, "annotations": [], "logprobs": self.logprobs}


@dataclass(slots=True)
class ResponseEvents:
    """`echo`: the fields of the response that are known before it begins, its `id` among them."""

    echo: Object
    _items: list[_Item] = field(default_factory=list)
    _open: bool = False
    """Whether the last item may get more."""
    _sent: int = 0

    def begin(self) -> list[Object]:
        response = self._response("in_progress")
        return [self._event(f"response.{name}", response=response) for name in ("created", "in_progress")]

    def feed(self, delta: Delta, logprobs: Sequence[TokenLogprob] = ()) -> list[Object]:
        events: list[Object] = []
        if delta.reasoning:
            events += self._opened("reasoning") + self._grown(delta.reasoning)
        if delta.text:
            events += self._opened("message") + self._grown(delta.text, logprobs)
        for call in delta.calls:
            if call.id is not None:
                events += self._closed() + self._added("function_call", call)
            if call.arguments:
                events += self._grown(call.arguments)
        return events

    def end(self, result: TextGenerationResult) -> list[Object]:
        """What follows the last delta."""
        events = [] if self._items else self._opened("message")
        events += self._closed()
        response = self.response(result)
        return [*events, self._event(f"response.{response['status']}", response=response)]

    def failed(self, error: Error) -> list[Object]:
        failure = {"code": "server_error", "message": error.message}
        return [self._event("response.failed", response=self._response("failed") | {"error": failure})]

    def response(self, result: TextGenerationResult) -> Object:
        """The whole response, after `end`."""
        complete = result.finish_reason == "stop"
        details = None if complete else {"reason": "max_output_tokens"}
        response = self._response("completed" if complete else "incomplete")
        return response | {"incomplete_details": details, "usage": _usage(result.usage)}

    def _response(self, status: str) -> Object:
        output = [
            item.object("incomplete" if status == "incomplete" and item is self._items[-1] else "completed")
            for item in self._items
        ]
        nothing: Object = {"error": None, "incomplete_details": None, "usage": None}
        return self.echo | nothing | {"status": status, "output": output}

    def _opened(self, kind: _Kind) -> list[Object]:
        if self._open and self._items[-1].kind == kind:
            return []
        return self._closed() + self._added(kind)

    def _added(self, kind: _Kind, call: CallDelta | None = None) -> list[Object]:
        number = len(self._items)
        response_id = str(self.echo["id"]).removeprefix("resp_")
        item = _Item(kind, f"{_PREFIX[kind]}_{response_id}_{number}", number, call=call)
        self._items.append(item)
        self._open = True
        events = [self._event("response.output_item.added", output_index=number, item=item.object("in_progress"))]
        if kind != "function_call":
            events.append(self._item_event("response.content_part.added", part=item.part()))
        return events

    def _grown(self, text: str, logprobs: Sequence[TokenLogprob] = ()) -> list[Object]:
        item = self._items[-1]
        item.text += text
        if item.kind == "function_call":
            return [self._item_event("response.function_call_arguments.delta", delta=text)]
        if item.kind == "reasoning":
            return [self._item_event("response.reasoning_text.delta", delta=text)]
        described = [token_logprob(token) for token in logprobs]
        item.logprobs += described
        return [self._item_event("response.output_text.delta", delta=text, logprobs=described)]

    def _closed(self) -> list[Object]:
        if not self._open:
            return []
        self._open = False
        item = self._items[-1]
        if item.call:
            done = [self._item_event("response.function_call_arguments.done", name=item.call.name, arguments=item.text)]
        elif item.kind == "reasoning":
            done = [self._item_event("response.reasoning_text.done", text=item.text)]
        else:
            done = [self._item_event("response.output_text.done", text=item.text, logprobs=item.logprobs)]
        if not item.call:
            done.append(self._item_event("response.content_part.done", part=item.part()))
        ended = self._event("response.output_item.done", output_index=item.index, item=item.object("completed"))
        return [*done, ended]

    def _item_event(self, kind: str, **fields: object) -> Object:
        item = self._items[-1]
        where: Object = {"item_id": item.id, "output_index": item.index}
        if not item.call:
            where["content_index"] = 0
        return self._event(kind, **where, **fields)

    def _event(self, kind: str, **fields: object) -> Object:
        number, self._sent = self._sent, self._sent + 1
        return {"type": kind, "sequence_number": number, **fields}


def _usage(usage: Usage | None) -> Object:
    usage = usage or Usage(prompt_tokens=0, completion_tokens=0)
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


async def response_stream(
    events: ResponseEvents, replies: StartedStream[Reply], parse: Callable[[Markup], OutputParser]
) -> Events:
    """The events of a response as its text comes. A failure is the last one."""
    parser: OutputParser | None = None
    logprobs: list[TokenLogprob] = []  # Of text that has not been released.
    yield _lines(events.begin())
    async with aclosing(replies):
        async for reply in replies:
            if not isinstance(reply, Chunk | TextGenerationResult):
                yield _lines(events.failed(reply if isinstance(reply, Error) else Error.of(Cancelled("no text"))))
                return
            parser = parser or parse(reply.markup or Markup())
            if isinstance(reply, Chunk):
                logprobs += reply.logprobs
                if delta := parser.feed(reply.text):
                    yield _lines(events.feed(delta, logprobs))
                    logprobs.clear()
            else:
                yield _lines(events.feed(parser.end(), logprobs) + events.end(reply))


def _lines(events: Iterable[Object]) -> bytes:
    return b"".join(b"event: %b\ndata: %b\n\n" % (str(event["type"]).encode(), data(event)) for event in events)
