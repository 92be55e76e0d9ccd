"""A process between the supervisor and what it starts: whichever of the two ends, all that was started ends too."""

import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Collection

from deployments.system.lifetime import adopt_orphans, end_descendants, end_with_parent

LOOK_EVERY_S = 0.2

Run = Callable[[socket.socket], int]
"""The body of the guarded process. It is given its end of the connection to the supervisor; returns its exit status."""


class Guarded:
    """A forked process, and the watchdog over it. `link` is the supervisor's end of the connection to it.

    To be made by a process with one thread. `closed`: descriptors that are the supervisor's alone.
    """

    def __init__(self, run: Run, closed: Collection[int] = ()) -> None:
        self.link, theirs = socket.socketpair()
        lifeline, self._lifeline = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if not self.pid:
            for fd in (self.link.fileno(), self._lifeline, *closed):
                os.close(fd)
            _never_return(lambda: _watch(run, theirs, lifeline))
        theirs.close()
        os.close(lifeline)
        self._ended = False

    @property
    def running(self) -> bool:
        if not self._ended:
            self._ended = os.waitpid(self.pid, os.WNOHANG)[0] == self.pid
        return not self._ended

    def close(self) -> None:
        """Ends the process and all that it has started. The watchdog's own end, if it comes first, is no obstacle."""
        os.close(self._lifeline)
        if not self._ended:
            os.waitpid(self.pid, 0)
            self._ended = True
        self.link.close()


def _never_return(body: Callable[[], int]) -> None:
    status = 1
    try:
        status = body()
    except KeyboardInterrupt:  # asked to end while it was ending
        pass
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _watch(run: Run, link: socket.socket, lifeline: int) -> int:
    """The watchdog: ends when the guarded process has ended, or when the supervisor has."""
    os.setsid()  # a Ctrl-C is the supervisor's
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    adopt_orphans()
    watchdog = os.getpid()
    guarded = os.fork()
    if not guarded:
        os.close(lifeline)
        _never_return(lambda: _guarded(run, link, watchdog))
    link.close()
    while not select.select([lifeline], [], [], LOOK_EVERY_S)[0]:
        pid, status = os.waitpid(-1, os.WNOHANG)
        while pid and pid != guarded:  # an orphan that has ended
            pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            end_descendants()
            return max(os.waitstatus_to_exitcode(status), 0)
    end_descendants()
    return 0


def _guarded(run: Run, link: socket.socket, watchdog: int) -> int:
    end_with_parent(watchdog)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    return run(link)
