"""The chat renderer's child: renders chat templates. `chat_template` limits its time and memory.

Knows neither the model nor its tokenizer.
"""

import json
import re
from typing import Any

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
    calling = [message for message in given["messages"] if "tool_calls" in message]
    try:
        # Most templates write the arguments as JSON.
        chat = [message | _with_objects(message) if message in calling else message for message in given["messages"]]
        return templates.render_jinja_template([chat], **options)[0][0]
    except TypeError:
        if not calling:
            raise
        # Others put them between texts, as they are: DeepSeek's.
        return templates.render_jinja_template([given["messages"]], **options)[0][0]


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
