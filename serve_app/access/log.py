"""The access log: a line for each answered request, as Serve's own handlers form and place them, many written at once.

Serve's handlers ask Ray for the same context, format twice and flush for each line (docs/logs.md has what that cost).
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from logging.handlers import MemoryHandler, RotatingFileHandler
from operator import attrgetter
from typing import TextIO

from deployments.contract.status import AnsweredRequest

WRITE_EVERY_S = 0.1
"""How long a line may wait: what a SIGKILL loses."""
MOST_WAITING = 200
"""So that no write holds up the event loop for more than about two milliseconds."""
FIELDS = tuple(AnsweredRequest.__dataclass_fields__)
_fields_of = attrgetter(*FIELDS)
_time = logging.Formatter()
_ID, _MESSAGE = "<request id>", "<message>"

_Line = Callable[[Mapping[str, object]], str]


class AccessLog:
    """Keeps what was answered until it is written: in `WRITE_EVERY_S`, or as soon as `MOST_WAITING` wait."""

    def __init__(self, serve: logging.Logger = logging.getLogger("ray.serve")) -> None:  # noqa: B008 - a constant
        self._serve = serve
        self._waiting: list[AnsweredRequest] = []
        self._lines: dict[logging.Handler, _Line] = {}

    def add(self, answered: AnsweredRequest) -> None:
        """In an event loop. Never raises."""
        self._waiting.append(answered)
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_later(WRITE_EVERY_S, self.write)
        elif len(self._waiting) >= MOST_WAITING:
            self.write()

    def write(self) -> None:
        """All that wait. A handler that cannot write says so as `logging` does, and the lines are lost."""
        waiting, self._waiting = self._waiting, []
        if not waiting or not self._serve.isEnabledFor(logging.INFO):
            return
        values = [_values(answered) for answered in waiting]
        for handler, output in _outputs(self._serve):
            try:
                line = self._lines.get(handler) or self._lines.setdefault(handler, _line(handler, output))
                _append(output, "".join(line(one) + output.terminator for one in values))
            except Exception:
                output.handleError(logging.makeLogRecord({"msg": f"{len(values)} lines of the access log"}))


def _outputs(serve: logging.Logger) -> "Iterator[tuple[logging.Handler, logging.StreamHandler[TextIO]]]":
    """Serve's handlers, each with the one that writes: before its file stands a MemoryHandler, with the filters."""
    for handler in serve.handlers:
        output = handler.target if isinstance(handler, MemoryHandler) else handler
        if isinstance(output, logging.StreamHandler):
            yield handler, output


def _line(handler: logging.Handler, output: "logging.StreamHandler[TextIO]") -> _Line:
    """How a handler forms its lines, learnt from one of them: they differ only in the request and the time."""
    record = logging.LogRecord("model_runtime.access", logging.INFO, __file__, 0, _MESSAGE, None, None)
    handler.filter(record)
    record.__dict__["request_id"] = _ID
    formatted = output.format(record)
    if not formatted.startswith("{"):
        text = formatted.replace("%", "%%").replace(_time.formatTime(record), "%(asctime)s")
        return text.replace(_ID, "%(request_id)s").replace(_MESSAGE, "%(message)s").__mod__
    constant = {name: value for name, value in json.loads(formatted).items() if name not in ("asctime", "message")}
    shown = dict.fromkeys(("asctime", "levelname", "message")) | constant | dict.fromkeys(FIELDS)

    def line(values: Mapping[str, object]) -> str:
        return json.dumps({**shown, **values})

    return line


def _values(answered: AnsweredRequest) -> dict[str, object]:
    ended = answered.arrived_at + answered.total_s
    return {
        "asctime": f"{_second(int(ended))},{int(ended % 1 * 1000):03}",
        "message": f"{answered.outcome} {answered.family} {answered.model} in {answered.total_s:.4f} s",
        **dict(zip(FIELDS, _fields_of(answered), strict=True)),
        "timestamp_ns": int(ended * 1e9),
    }


@lru_cache(maxsize=2)
def _second(at: int) -> str:
    return time.strftime(logging.Formatter.default_time_format, time.localtime(at))


def _append(output: "logging.StreamHandler[TextIO]", lines: str) -> None:
    record = logging.makeLogRecord({"msg": lines})
    output.acquire()
    try:
        if isinstance(output, RotatingFileHandler) and output.shouldRollover(record):
            output.doRollover()
        output.stream.write(lines)
        output.flush()
    finally:
        output.release()
