"""Chats become prompts by the model's own template, which runs in a child process that it cannot leave."""

import json
import os
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import deployments
from deployments.contract.errors import InvalidRequest, quoted
from deployments.engines.text import chat_template_worker

START_S = 60.0  # Until the child has imported what it needs.
RENDER_S = 2.0
MOST_BYTES = 1 << 25
"""Of one answer: twice what the child's limit of characters can take, escaped."""


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """`role`: whatever the template knows, as a rule "system", "user" or "assistant"."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A template and what it may use. `added_tokens`: each with whether it is a special one."""

    source: str
    variables: dict[str, str]
    added_tokens: tuple[tuple[str, bool], ...]


class ChatRenderer:
    """Renders one template at a time; from any thread. The child starts with the first chat and lives until `close`."""

    def __init__(self, template: ChatTemplate, render_s: float = RENDER_S) -> None:
        self._template = template
        self._render_s = render_s
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._closed = False

    def render(self, messages: Sequence[ChatMessage], add_generation_prompt: bool = True) -> str:
        """The chat as one text, with control tokens in messages marked. Raises InvalidRequest."""
        order = {
            "template": self._template.source,
            "messages": [asdict(message) for message in messages],
            "variables": self._template.variables | {"add_generation_prompt": add_generation_prompt},
            "added_tokens": self._template.added_tokens,
        }
        with self._lock:
            reply = self._exchange(json.dumps(order).encode() + b"\n")
        if "refused" in reply:
            raise InvalidRequest(f"the model's chat template refuses these messages: {quoted(reply['refused'])}")
        if "failed" in reply:
            raise InvalidRequest(f"the model's chat template {reply['failed']}")
        return reply["text"]

    def close(self) -> None:
        """End the child. May be called from any thread, more than once."""
        self._closed = True
        self._kill()

    def _exchange(self, order: bytes) -> dict[str, str]:
        if self._closed:
            return {"failed": "is being unloaded"}
        try:
            if self._child is None or self._child.poll() is not None:
                self._child = _start()
                if self._closed:
                    self._kill()
                _ask(self._child, b"", time.monotonic() + START_S)  # It says when it is ready.
            reply: dict[str, str] = json.loads(_ask(self._child, order, time.monotonic() + self._render_s))
            return reply
        except (TimeoutError, OSError, ValueError) as failure:
            self._kill()
            return {"failed": "takes too long" if isinstance(failure, TimeoutError) else "ends its process"}

    def _kill(self) -> None:
        child = self._child
        if child is not None:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()


def _start() -> subprocess.Popen[bytes]:
    child = subprocess.Popen(
        [sys.executable, "-m", chat_template_worker.__name__],
        cwd=Path(deployments.__file__ or "").parent.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    os.set_blocking(child.stdin.fileno(), False)
    os.set_blocking(child.stdout.fileno(), False)
    return child


def _ask(child: subprocess.Popen[bytes], order: bytes, until: float) -> bytes:
    """Bytes to the child, one line back. Raises TimeoutError, and ValueError where it says nothing or too much."""
    assert child.stdin is not None
    assert child.stdout is not None
    told = bytearray()
    with selectors.DefaultSelector() as ready:
        ready.register(child.stdout, selectors.EVENT_READ)
        if order:
            ready.register(child.stdin, selectors.EVENT_WRITE)
        while not told.endswith(b"\n"):
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            for key, _ in ready.select(left):
                if key.fileobj is child.stdin:
                    order = order[os.write(key.fd, order) :]
                    if not order:
                        ready.unregister(child.stdin)
                else:
                    new = os.read(key.fd, 1 << 20)
                    told += new
                    if not new or len(told) > MOST_BYTES:
                        raise ValueError
    return bytes(told)
