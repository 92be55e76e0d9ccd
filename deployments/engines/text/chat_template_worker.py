"""The chat renderer's child: renders chat templates. `chat_template` limits its time and memory.

Knows neither the model nor its tokenizer.
"""

import json
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
    pattern, _ = templates._get_control_token_patterns(control)
    given = {name: order[name] for name in ("messages", "tools", "chat_template_kwargs")}
    marked = templates.mark_control_tokens(given, pattern)
    options = order["variables"] | marked["chat_template_kwargs"] | {"tools": marked["tools"], "chat_template": source}
    options |= {name: order[name] for name in ("add_generation_prompt", "continue_final_message")}
    calling = [message for message in marked["messages"] if "tool_calls" in message]
    try:
        # Most templates write the arguments as JSON.
        chat = [message | _with_objects(message) if message in calling else message for message in marked["messages"]]
        return templates.render_jinja_template([chat], **options)[0][0]
    except TypeError:
        if not calling:
            raise
        # Others put them between texts, as they are: DeepSeek's.
        return templates.render_jinja_template([marked["messages"]], **options)[0][0]


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
