"""A HAProxy in place of one that Ray Serve started and that was killed, until Serve starts the next.

Serve misses its HAProxy after three checks, 30 s later, and starts its manager anew. `model-runtime-haproxy` starts
this program beside HAProxy, by its path: it imports nothing but the standard library, since it stays as long as that.
"""

import ctypes
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

LATEST = "latest_haproxy"
"""The file beside the configuration that has the process id of the HAProxy that was started last."""
LOOKS_EVERY_S = 0.1
LIVES_S = 1.0
"""A stand-in that ends sooner cannot do its work, and is not started again."""
_PR_SET_PDEATHSIG = 1
_ADMIN_SOCKET = re.compile(r"^ *stats socket .*\n", re.MULTILINE)
"""Serve must not take the stand-in for its own HAProxy, which it could neither reload nor end."""


def start(configuration: Path, program: str, arguments: Sequence[str]) -> None:
    """For the HAProxy that this process is about to become. Its parent is Serve's manager."""
    haproxy, manager = os.getpid(), os.getppid()
    (configuration.parent / LATEST).write_text(str(haproxy), "utf-8")
    if (child := os.fork()) == 0:
        if os.fork() == 0:  # HAProxy's child no more: HAProxy waits for none.
            # Serve counts the processes that are given its configuration: this one is not.
            file = str(configuration.parent), configuration.name
            command = [sys.executable, "-I", "-S", __file__, str(haproxy), str(manager), *file, program, *arguments]
            os.execv(sys.executable, command)
        os._exit(0)
    os.waitpid(child, 0)


def main(haproxy: int, manager: int, configuration: Path, program: str, options: Sequence[str]) -> None:
    """Returns when the manager has ended, another HAProxy is there, or a stand-in would not do."""
    try:
        haproxy_fd, manager_fd = os.pidfd_open(haproxy), os.pidfd_open(manager)
    except ProcessLookupError:
        return
    ended, _, _ = select.select([haproxy_fd, manager_fd], [], [])
    while manager_fd not in ended and _is_latest(configuration, haproxy):
        begun = time.monotonic()
        with _stand_in(configuration, program, options) as process:
            while process.poll() is None:
                ended, _, _ = select.select([manager_fd], [], [], LOOKS_EVERY_S)
                if ended or not _is_latest(configuration, haproxy):
                    process.send_signal(signal.SIGUSR1)  # Ends once its requests are answered.
                    return
        if time.monotonic() - begun < LIVES_S:
            return


def _is_latest(configuration: Path, haproxy: int) -> bool:
    return (configuration.parent / LATEST).read_text("utf-8") == str(haproxy)


def _stand_in(configuration: Path, program: str, options: Sequence[str]) -> "subprocess.Popen[bytes]":
    copy = configuration.with_name("stand_in.cfg")
    copy.write_text(_ADMIN_SOCKET.sub("", configuration.read_text("utf-8")), "utf-8")
    end_with_parent = ctypes.CDLL(None).prctl
    return subprocess.Popen(
        [program, "-f", str(copy), *options],
        stdin=subprocess.DEVNULL,
        preexec_fn=lambda: end_with_parent(_PR_SET_PDEATHSIG, signal.SIGTERM),  # safe: one thread
    )


if __name__ == "__main__":
    with suppress(FileNotFoundError):  # The node has ended, and its files are gone.
        main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]) / sys.argv[4], sys.argv[5], sys.argv[6:])
