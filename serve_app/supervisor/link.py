"""The messages between the supervisor and the process that it guards: lines of JSON, on one connection."""

import _thread
import json
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

READ_BYTES = 65536
_RELOAD = b"reload\n"


@dataclass(frozen=True, slots=True)
class Report:
    """What the guarded process reports. Each report means that it is alive."""

    watch: Mapping[str, int] = field(default_factory=dict)
    """By name, the ids of processes without which it cannot go on."""
    ready: bool = False
    """It answers requests."""
    failed: str = ""
    """Why it ends, in one line."""
    again: bool = True
    """Whether another start may succeed where this one has not."""


class Reports:
    """The supervisor's end."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._rest = b""

    def read(self, timeout_s: float) -> list[Report]:
        """The reports that have come, after at most so many seconds. Raises EOFError if there will be none."""
        self._link.settimeout(timeout_s)
        try:
            new = self._link.recv(READ_BYTES)
        except TimeoutError:
            return []
        except OSError:
            new = b""
        if not new:
            raise EOFError
        *lines, self._rest = (self._rest + new).split(b"\n")
        return [Report(**json.loads(line)) for line in lines]

    def reload(self) -> None:
        """Asks for the configuration to be read again."""
        self._link.sendall(_RELOAD)

    def stop(self) -> None:
        """Asks for an end in good order."""
        self._link.shutdown(socket.SHUT_WR)


class Orders:
    """The guarded process's end. `stop` is set when the supervisor asks for the end, or has ended."""

    def __init__(
        self, link: socket.socket, reload: Callable[[], None], interrupt: Callable[[], None] = _thread.interrupt_main
    ) -> None:
        self.stop = threading.Event()
        self._link = link
        self._reload = reload
        self._interrupt = interrupt
        self.idle = False
        """Whether the main thread waits for `stop`; else it is interrupted."""
        threading.Thread(target=self._read, daemon=True).start()

    def report(self, report: Report) -> None:
        try:
            self._link.sendall(json.dumps(asdict(report)).encode() + b"\n")
        except OSError:  # The supervisor has ended; so will this process.
            self.stop.set()

    def _read(self) -> None:
        try:
            while order := self._link.recv(READ_BYTES):
                if _RELOAD in order:
                    self._reload()
        except OSError:
            pass
        self.stop.set()
        if not self.idle:
            self._interrupt()
