"""The chat renderer's child: renders chat templates. `chat_template` limits its time and memory.

Knows neither the model nor its tokenizer.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from jinja2 import TemplateError
from transformers.utils import chat_template_utils as templates

from deployments.system.worker_process import Report, serve

MEMORY_BYTES = 3 << 27
MAX_CHARACTERS = 1 << 22


def rendered(order: dict[str, Any]) -> str:
    """The chat as one text; control tokens that the messages spell are marked, as `encode_marked_chat` reads them."""
    source = order["tool_source"] if order["tools"] else order["source"]
    literals = templates._get_template_literal_text(source)
    control = tuple(
        token
        for token, special in order["added_tokens"]
        if special or (token in literals and not token.isspace())  # As transformers chooses them.
    )
    tokens, marks = templates._get_control_token_patterns(control)
    nothing, _ = templates._get_control_token_patterns(())
    given = {name: order[name] for name in ("messages", "tools", "chat_template_kwargs")}
    plain, marked = (templates.mark_control_tokens(given, pattern) for pattern in (nothing, tokens))
    options = order["variables"] | {name: order[name] for name in ("add_generation_prompt", "continue_final_message")}
    options |= {"chat_template": source}
    text = _rendered(plain, options)
    return text if marked == plain else _with_marks(text, _rendered(marked, options), tokens, marks)


def _rendered(given: dict[str, Any], options: dict[str, Any]) -> str:
    """`given`: messages, tools and variables, marked or not."""
    options = options | given["chat_template_kwargs"] | {"tools": given["tools"]}
    failures: list[Exception] = []
    for messages in _forms(given["messages"]):
        try:
            return templates.render_jinja_template([messages], **options)[0][0]
        except (TypeError, TemplateError) as failure:
            failures.append(failure)
    raise failures[0]


def _forms(messages: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The conversation as templates take it; with calls of tools there are several ways."""
    if not any("tool_calls" in message for message in messages):
        yield messages
        return
    objects = [message | _with_objects(message) if "tool_calls" in message else message for message in messages]
    yield objects  # Most write the arguments as JSON.
    yield messages  # DeepSeek's puts them between texts, as they are.
    yield _one_by_one(objects)  # Llama's refuse several calls in one turn.


def _one_by_one(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each call in a turn of its own, before its result."""
    turns: list[dict[str, Any]] = []
    for message in messages:
        calls = message.get("tool_calls", [])
        turns += [message | {"tool_calls": [call]} | ({"content": ""} if n else {}) for n, call in enumerate(calls)]
        if calls:
            continue
        answered = message.get("tool_call_id")
        called = [n for n, turn in enumerate(turns) if answered and _call_id(turn) == answered]
        turns.insert(called[-1] + 1 if called else len(turns), message)
    return turns


def _call_id(turn: dict[str, Any]) -> str | None:
    call: dict[str, Any] = next(iter(turn.get("tool_calls", [])), {})
    return call.get("id")


def _with_marks(text: str, marked: str, tokens: re.Pattern[str], marks: re.Pattern[str]) -> str:
    """`text` with the marks of `marked`. If the two differ in more than spaces, `marked` as it is.

    A template that strips the spaces beside a token, as with `split('</think>')[-1].lstrip()`, cannot do so where the
    token is marked, since its mark stands between.
    """
    pieces = marks.split(marked)  # Text, a marked token or None for a mark without its token, text, and so on.
    of_caller: list[bool] = []
    for number, piece in enumerate(pieces):
        if number % 2:
            of_caller += [True] * (piece is not None)
        else:
            of_caller += [False] * len(tokens.findall(piece))
    found = list(tokens.finditer(text))
    same = len(found) == len(of_caller) and _without_spaces(text) == _without_spaces("".join(filter(None, pieces)))
    if not same:
        return marked
    spelled = iter(of_caller)
    marked_token = f"{templates._CONTROL_TOKEN_START}\\g<0>{templates._CONTROL_TOKEN_END}"
    return tokens.sub(lambda token: token.expand(marked_token) if next(spelled) else token[0], text)


def _without_spaces(text: str) -> str:
    return "".join(text.split())


def _with_objects(message: dict[str, Any]) -> dict[str, Any]:
    """The message's tool calls, with their arguments as objects instead of JSON where they are."""
    calls = []
    for call in message["tool_calls"]:
        try:
            arguments = json.loads(call["function"]["arguments"])
        except ValueError:
            arguments = call["function"]["arguments"]
        calls.append(call | {"function": call["function"] | {"arguments": arguments}})
    return {"tool_calls": calls}


def answer(order: dict[str, Any], report: Report) -> dict[str, str]:
    """`text`, or why there is none: `refused` by the template itself, else `failed`."""
    try:
        text = rendered(order)
    except MemoryError:
        return {"failed": "takes too much memory"}
    except Exception as failure:
        # The message of a template's `raise_exception` is meant for the caller.
        kind = "refused" if type(failure).__name__ == "TemplateError" else "failed"
        return {kind: str(failure) if kind == "refused" else f"fails ({type(failure).__name__})"}
    return {"text": text} if len(text) <= MAX_CHARACTERS else {"failed": "gives too long a text"}


if __name__ == "__main__":
    serve(answer, memory_bytes=MEMORY_BYTES, file_bytes=0)
