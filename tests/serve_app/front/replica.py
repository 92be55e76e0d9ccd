"""An ingress replica's socket, as HAProxy sees it."""

import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b"


@dataclass
class Replica:
    """Answers with its name. `breaks`: it ends each connection on which a request has arrived, without a word."""

    path: Path
    breaks: bool = False
    received: list[bytes] = field(default_factory=list)
    asked: threading.Event = field(default_factory=threading.Event)
    answers: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.answers.set()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            while head := _request(connection):
                if not head.startswith(b"GET /healthz"):
                    self.received.append(head)
                    self.asked.set()
                    if self.breaks:
                        return
                    self.answers.wait(60)
                name = self.path.stem.encode()
                with suppress(OSError):
                    connection.sendall(RESPONSE % (len(name), name))


def _request(connection: socket.socket) -> bytes:
    """The head of a request, once its body has been read; empty at the end of the connection."""
    received = b""
    try:
        while b"\r\n\r\n" not in received:
            part = connection.recv(65536)
            if not part:
                return b""
            received += part
        head, _, body = received.partition(b"\r\n\r\n")
        lengths = [
            int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
        ]
        left = sum(lengths) - len(body)
        while left > 0 and (part := connection.recv(65536)):
            left -= len(part)
    except OSError:
        return b""
    return head
