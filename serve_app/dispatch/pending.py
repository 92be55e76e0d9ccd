"""One call until its answer is there, whichever transport carries it."""

import asyncio
import time
from dataclasses import replace

from deployments.contract.types import Chunk, InferResponse, Message
from deployments.replica.calls import Call, OnChunk


class Pending:
    """One call until its answer is there. `response` may be cancelled, which takes the call back."""

    def __init__(self, call: Call, tell: OnChunk | None) -> None:
        self.call = call
        self.size = sum(map(_bytes_in, vars(call.request).values()))
        self.response: asyncio.Future[InferResponse] = asyncio.get_running_loop().create_future()
        self.submitted = False
        """Whether its turn has come to be sent."""
        self.arrived = False
        """Whether a replica took it."""
        self.lost = 0
        """How many replicas were lost with it."""
        self._give_up = time.monotonic() + call.timeout_s
        self._tell = tell
        self._told = 0  # characters
        self._told_logprobs = 0
        # Of a repeated answer, what was told already:
        self._skip = 0
        self._skip_logprobs = 0

    def to_send(self) -> Call:
        return replace(self.call, timeout_s=max(self._give_up - time.monotonic(), 0.0))

    def hear(self, reply: Chunk | InferResponse) -> None:
        if self.response.done():
            return
        if isinstance(reply, InferResponse):
            self.response.set_result(reply)
        elif self._tell is not None:
            new = reply.text[self._skip :]
            self._skip = max(self._skip - len(reply.text), 0)
            logprobs = reply.logprobs[self._skip_logprobs :]
            self._skip_logprobs = max(self._skip_logprobs - len(reply.logprobs), 0)
            if new or logprobs:
                self._told += len(new)
                self._told_logprobs += len(logprobs)
                self._tell(Chunk(new, reply.index, logprobs))

    def fail(self, cause: Exception) -> None:
        if not self.response.done():
            self.response.set_exception(cause)

    def again(self) -> None:
        """Before it is sent once more: requests are repeatable, so what was told will come again."""
        self.lost += 1
        self._skip, self._skip_logprobs = self._told, self._told_logprobs


def _bytes_in(value: object) -> int:
    """About how many bytes a field takes on the way."""
    if isinstance(value, bytes | str):
        return len(value)
    if isinstance(value, list):
        return 8 * len(value) + sum(len(turn.content) for turn in value if isinstance(turn, Message))
    return 0
