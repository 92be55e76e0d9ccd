"""Renders chat templates for the process that started it: a line of JSON in, a line of JSON out, after a "ready".

A program of its own, since a template is a program: it may multiply strings or loop for ever. Its memory is bounded by
the system, its time by whoever started it. It knows neither the model nor its tokenizer.
"""

import contextlib
import json
import resource
import sys
from typing import Any

from transformers.utils.chat_template_utils import (
    _get_control_token_patterns,
    _get_template_literal_text,
    mark_control_tokens,
    render_jinja_template,
)

MEMORY_BYTES = 1 << 29
MOST_CHARACTERS = 1 << 22


def rendered(template: str, order: dict[str, Any]) -> str:
    """The chat as one text; control tokens that the messages spell are marked, as `encode_marked_chat` reads them."""
    literals = _get_template_literal_text(template)
    control = tuple(
        token
        for token, special in order["added_tokens"]
        if special or (token in literals and not token.isspace())  # As transformers chooses them.
    )
    pattern, _ = _get_control_token_patterns(control)
    messages = mark_control_tokens(order["messages"], pattern)
    texts = render_jinja_template([messages], chat_template=template, **order["variables"])
    return texts[0][0]


def answer(order: dict[str, Any]) -> dict[str, str]:
    """`text`, or why there is none: `refused` by the template itself, else `failed`."""
    try:
        text = rendered(order["template"], order)
    except MemoryError:
        return {"failed": "takes too much memory"}
    except Exception as failure:
        # What `raise_exception` of a template says is meant for whoever wrote the messages.
        kind = "refused" if type(failure).__name__ == "TemplateError" else "failed"
        return {kind: str(failure) if kind == "refused" else f"fails ({type(failure).__name__})"}
    return {"text": text} if len(text) <= MOST_CHARACTERS else {"failed": "gives too long a text"}


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = sys.stdout
    sys.stdout = sys.stderr  # Whatever libraries print shall not be taken for an answer.
    print("ready", file=answers, flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        for line in sys.stdin:
            print(json.dumps(answer(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
