"""A child process that answers requests one at a time: a line of JSON in, a line of JSON out.

`WorkerProcess` is the parent's side, `serve` the child's. The parent bounds the time of each answer. The child bounds
its own memory and CPU time, and ends with its parent. Neither knows what is asked.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

PROJECT = Path(__file__).parents[2]
START_S = 60.0
"""Until a child has imported its module, on a busy machine."""
MAX_REPLY_BYTES = 1 << 25
READ_BYTES = 1 << 20
_PR_SET_PDEATHSIG = 1

Reason = Literal["timeout", "out of memory", "signal", "exit", "protocol", "closed"]

# The kernel sends PR_SET_PDEATHSIG when the thread that started the child ends. This one ends with the process.
_starter = ThreadPoolExecutor(1, "start-worker")


class WorkerFailed(Exception):
    """The child gave no answer. The next request starts another child.

    `reason` is the cause, `step` is what the child reported last.
    """

    def __init__(self, reason: Reason, detail: str = "", step: str | None = None) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.step = step


class RequestFailed(Exception):
    """The child's `answer` raised: the exception's type and the last line of its message. The child goes on."""


class WorkerProcess:
    """A child that runs `python -m module`, started by the first request and kept until `close`. For any thread."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._lock = threading.Lock()
        self._closed = False
        self.process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket
        self._received = bytearray()

    def ask(self, request: object, timeout_s: float, cpu_s: float | None = None) -> Any:
        """The child's answer to `request`, both as JSON has them, one request at a time.

        `timeout_s` bounds the time of the answer, `cpu_s` its CPU seconds. Raises RequestFailed where the child's
        `answer` raised, WorkerFailed where the child ended or had to be ended.
        """
        with self._lock:
            try:
                if self.process is None or self.process.poll() is not None:  # it may have died while it was idle
                    self._start()
                message = json.dumps({"request": request, "cpu_s": cpu_s})
                return self._exchange(message.encode() + b"\n", timeout_s)
            except RequestFailed:
                raise
            except BaseException:
                self._end()
                raise

    def close(self) -> None:
        """Ends the child and what it started. A request under way raises WorkerFailed, as do later ones."""
        self._closed = True
        self._kill()
        with self._lock:
            self._end()

    def __del__(self) -> None:
        self._end()

    def _start(self) -> None:
        self._end()
        self._channel, theirs = socket.socketpair()
        with theirs:
            self.process = _starter.submit(
                subprocess.Popen,
                [sys.executable, "-m", self._module, str(os.getpid()), str(theirs.fileno())],
                cwd=PROJECT,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # what libraries print is no answer
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # a Ctrl-C is not for it, and its own children can be ended with it
            ).result()
        if self._closed:  # `close` came before there was a child
            raise WorkerFailed("closed")
        self._exchange(b"", START_S)

    def _exchange(self, message: bytes, timeout_s: float) -> Any:
        """Sends a message, returns the next answer."""
        until = time.monotonic() + timeout_s
        step: str | None = None
        try:
            self._channel.settimeout(timeout_s)
            self._channel.sendall(message)
            while True:
                match json.loads(self._read_line(until)):
                    case {"step": str(reported)}:
                        step = reported
                    case {"answer": answer}:
                        return answer
                    case {"failed": str(failure)}:
                        raise RequestFailed(failure)
                    case {"out of memory": _}:
                        raise WorkerFailed("out of memory", step=step)
                    case _:
                        raise ValueError("not a message")
        except TimeoutError:
            raise WorkerFailed("timeout", f"{timeout_s:g} s", step) from None
        except (EOFError, OSError):
            raise WorkerFailed(*self._exit_reason(), step) from None
        except ValueError:
            raise WorkerFailed("protocol", "the child wrote something else than a message", step) from None

    def _read_line(self, until: float) -> bytes:
        """Raises TimeoutError, EOFError (the child has ended), ValueError."""
        while b"\n" not in self._received:
            self._channel.settimeout(max(1e-6, until - time.monotonic()))
            new = self._channel.recv(READ_BYTES)
            if not new:
                raise EOFError
            self._received += new
            if len(self._received) > MAX_REPLY_BYTES:
                raise ValueError
        line, _, self._received = self._received.partition(b"\n")
        return bytes(line)

    def _exit_reason(self) -> tuple[Reason, str]:
        """Why a child ended that has closed its channel."""
        if self._closed:
            return "closed", ""
        assert self.process is not None
        code = self.process.wait()
        if code == -signal.SIGPROF:
            return "timeout", "CPU seconds"
        if code == -signal.SIGKILL:  # not by us: the kernel's, for want of memory
            return "out of memory", "killed"
        return ("signal", signal.Signals(-code).name) if code < 0 else ("exit", f"code {code}")

    def _kill(self) -> None:
        process = self.process
        if process is not None and process.returncode is None:  # not reaped: the process id is still its own
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def _end(self) -> None:
        self._kill()
        if self.process is not None:
            self.process.wait()
            self._channel.close()
        self.process = None
        self._received = bytearray()


Report = Callable[[str], None]
"""Takes the name of the step that a child begins, so that the parent knows what ended it."""


def serve(
    answer: Callable[[Any, Report], object], memory_bytes: int | None = None, file_bytes: int | None = None
) -> None:
    """The child's main function: answers the parent's requests until there are no more.

    What `answer` raises is the answer to that request alone, but for MemoryError. The operating system limits
    `memory_bytes` of address space, beyond what the process takes by now, and `file_bytes` of each file that it writes.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):  # the parent ended before that
        sys.exit(1)
    channel = socket.socket(fileno=int(sys.argv[2]))
    channel.set_inheritable(False)
    requests, replies = channel.makefile("r"), channel.makefile("w")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    if memory_bytes is not None:
        at_rest = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (at_rest + memory_bytes, at_rest + memory_bytes))

    def reply(kind: str, content: object) -> None:
        print(json.dumps({kind: content}), file=replies, flush=True)

    reply("answer", "ready")
    for line in requests:
        order = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, order["cpu_s"] or 0.0)  # its signal ends the process
        try:
            content = answer(order["request"], lambda step: reply("step", step))
            signal.setitimer(signal.ITIMER_PROF, 0.0)
            reply("answer", content)
        except MemoryError:
            reply("out of memory", None)
        except Exception as failure:
            reply("failed", f"{type(failure).__name__}: {str(failure).strip().rpartition(chr(10))[2]}")
