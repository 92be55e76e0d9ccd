"""A child process that answers requests one at a time: a line of JSON in, a line of JSON out.

`WorkerProcess` is the parent's side, `serve` the child's. The parent bounds the time of each answer. The child bounds
its own memory and CPU time, and ends with its parent. Neither knows what is asked.
"""

import contextlib
import ctypes
import json
import os
import resource
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
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


@dataclass(frozen=True, slots=True)
class Limits:
    """What a child sets for itself, from the operating system. None: no limit."""

    memory_bytes: int | None = None
    """Of address space, beyond what the child takes once it has imported its module."""
    file_bytes: int | None = None
    """Of each file that it writes."""
    niceness: int = 0


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

    def __init__(self, module: str, limits: Limits = Limits()) -> None:
        self._module = module
        self._limits = json.dumps(asdict(limits))
        self._lock = threading.Lock()
        self._closed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._received = bytearray()

    def ask(self, request: object, timeout_s: float, cpu_s: float | None = None) -> Any:
        """The child's answer to `request`, both as JSON has them, one request at a time.

        `timeout_s` bounds the time of the answer, `cpu_s` its CPU seconds. Raises RequestFailed where the child's
        `answer` raised, WorkerFailed where the child ended or had to be ended.
        """
        with self._lock:
            if self._closed:
                raise WorkerFailed("closed")
            if self._process is not None and self._process.poll() is not None:
                self._end()  # it died while it was idle
            try:
                if self._process is None:
                    self._start()
                return self._exchange({"request": request, "cpu_s": cpu_s}, timeout_s)
            except RequestFailed:
                raise
            except BaseException:
                self._end()
                raise

    @property
    def pid(self) -> int | None:
        """Of the child, where there is one."""
        return self._process.pid if self._process else None

    def close(self) -> None:
        """Ends the child and what it started. A request under way raises WorkerFailed, as do later ones."""
        self._closed = True
        self._kill()
        with self._lock:
            self._end()

    def __del__(self) -> None:
        self._end()

    def _start(self) -> None:
        self._process = _starter.submit(
            subprocess.Popen,
            [sys.executable, "-m", self._module, str(os.getpid()), self._limits],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,  # a Ctrl-C is not for it, and its own children can be ended with it
        ).result()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
        if self._closed:  # `close` may have looked before there was a child
            raise WorkerFailed("closed")
        self._exchange(None, START_S)

    def _exchange(self, message: object, timeout_s: float) -> Any:
        """Sends a message, None for none; returns the next answer."""
        until = time.monotonic() + timeout_s
        step: str | None = None
        try:
            pending = b"" if message is None else json.dumps(message).encode() + b"\n"
            while True:
                line, pending = self._read_line(pending, until), b""
                match json.loads(line):
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

    def _read_line(self, pending: bytes, until: float) -> bytes:
        """Writes what is pending, reads one line. Raises TimeoutError, EOFError (the child has ended), ValueError."""
        process, received = self._process, self._received
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        with selectors.DefaultSelector() as ready:
            ready.register(process.stdout, selectors.EVENT_READ)
            if pending:
                ready.register(process.stdin, selectors.EVENT_WRITE)
            complete = b"\n" in received
            while not complete:
                left_s = until - time.monotonic()
                if left_s <= 0:
                    raise TimeoutError
                for key, _ in ready.select(left_s):
                    if key.fileobj is process.stdin:
                        pending = pending[os.write(key.fd, pending) :]
                        if not pending:
                            ready.unregister(process.stdin)
                    else:
                        received += (new := os.read(key.fd, READ_BYTES))
                        if not new:
                            raise EOFError
                        if len(received) > MAX_REPLY_BYTES:
                            raise ValueError
                        complete = b"\n" in new
        line, _, self._received = received.partition(b"\n")
        return bytes(line)

    def _exit_reason(self) -> tuple[Reason, str]:
        """Why a child ended that has closed its pipes."""
        if self._closed:
            return "closed", ""
        assert self._process is not None
        code = self._process.wait()
        if code == -signal.SIGPROF:
            return "timeout", "CPU seconds"
        if code == -signal.SIGKILL:  # not by us: the kernel's, for want of memory
            return "out of memory", "killed"
        return ("signal", signal.Signals(-code).name) if code < 0 else ("exit", f"code {code}")

    def _kill(self) -> None:
        process = self._process
        if process is not None and process.returncode is None:  # not reaped: the process id is still its own
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def _end(self) -> None:
        self._kill()
        process, self._process = self._process, None
        self._received = bytearray()
        if process is not None:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


Report = Callable[[str], None]
"""Takes the name of the step that a child begins, so that the parent knows what ended it."""


def serve(answer: Callable[[Any, Report], object]) -> None:
    """The child's main function: answers the parent's requests until there are no more.

    What `answer` raises is the answer to that request alone, but for MemoryError. Whatever else the process prints
    is dropped.
    """
    _end_with_parent(int(sys.argv[1]))
    requests, replies = sys.stdin, os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    _limit(Limits(**json.loads(sys.argv[2])))

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


def _end_with_parent(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before that
        sys.exit(1)


def _limit(limits: Limits) -> None:
    os.nice(limits.niceness)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if limits.file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limits.file_bytes, limits.file_bytes))
    if limits.memory_bytes is not None:
        at_rest = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (at_rest + limits.memory_bytes, at_rest + limits.memory_bytes))
