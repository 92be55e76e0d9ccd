"""Starts the runtime, watches it, starts it anew when it dies, and ends all that it started.

The processes: this one, which has one thread; HAProxy; the watchdog; below it the runtime's own process, Ray's and all
others.
"""

import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import FrameType

from deployments.system.lifetime import adopt_orphans, end_descendants, is_running
from serve_app.front.front import Front
from serve_app.supervisor.deaths import Deaths
from serve_app.supervisor.link import Reports
from serve_app.supervisor.watchdog import LOOK_EVERY_S, Guarded

SILENT_S = 60.0
"""A runtime that has answered nothing for so long is started anew."""
DRAIN_S = 10.0
"""How long requests under way may take once the runtime is asked to end."""
STOP_S = 10.0
WAITS_S = 0.02
GIVEN_UP = 3

Start = Callable[[bool, socket.socket], int]
"""The runtime: whether it is started anew, and its end of the link to the supervisor."""


class Supervisor:
    """`serve` returns the exit status. `front` is None where there is no HAProxy."""

    def __init__(
        self, start: Start, front: Front | None, deaths: Deaths | None = None, silent_s: float = SILENT_S
    ) -> None:
        self._start = start
        self._front = front
        self._deaths = deaths or Deaths()
        self._silent_looks = silent_s / LOOK_EVERY_S
        self._signals = 0
        self._reload = False

    def serve(self) -> int:
        """Until SIGINT or SIGTERM: 0. 1 where the runtime refuses to start, GIVEN_UP where it dies again and again."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._signalled)
        signal.signal(signal.SIGHUP, self._hung_up)
        adopt_orphans()
        anew = False
        try:
            if self._front:
                self._front.start()
            while not self._signals:
                verdict = self._one_life(anew)
                if verdict.status is not None:
                    return verdict.status
                self._wait(lambda: self._signals > 0, verdict.wait_s)
                anew = True
        finally:
            end_descendants()
        print("stopped", flush=True)
        return 0

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1

    def _hung_up(self, number: int, frame: FrameType | None) -> None:
        self._reload = True

    def _one_life(self, anew: bool) -> "Verdict":
        """From a start of the runtime to its end, of which nothing is left."""
        guarded = Guarded(partial(self._start, anew), [self._front.listener.fileno()] if self._front else [])
        try:
            death = self._watch(guarded)
            if death is not None:
                return self._verdict(death)  # Said before the rest is ended, which may take seconds.
            self._stop(guarded)
            return Verdict()
        finally:
            guarded.close()
            end_descendants([self._front.pid] if self._front else [])

    def _verdict(self, death: "Death") -> "Verdict":
        """What follows from a death, which is printed."""
        if not death.again:
            print(death.reason, file=sys.stderr, flush=True)
            return Verdict(status=1)
        wait_s = self._deaths.back_off(time.monotonic())
        if wait_s is None:
            last = f"{death.reason}: the third death within five minutes; giving up"
            print(last, file=sys.stderr, flush=True)
            return Verdict(status=GIVEN_UP)
        print(f"{death.reason}: starting anew" + (f" in {wait_s:g} s" if wait_s else ""), flush=True)
        return Verdict(wait_s)

    def _watch(self, guarded: Guarded) -> "Death | None":
        reports = Reports(guarded.link)
        watched: Mapping[str, int] = {}
        ready, silent = False, 0
        while not self._signals:
            ended = not guarded.running
            try:
                new = reports.read(LOOK_EVERY_S)
            except EOFError:
                return Death("the runtime's own process died")
            silent = 0 if new else silent + 1  # Looks, not seconds: this process may have been stopped meanwhile.
            for report in new:
                if report.failed:
                    return Death(report.failed, report.again)
                watched, ready = report.watch or watched, ready or report.ready
            if ended:
                return Death("the watchdog died")
            if dead := [name for name, pid in watched.items() if not is_running(pid)]:
                return Death(f"{' and '.join(dead)} died")
            if ready and silent > self._silent_looks:
                if self._front:
                    self._front.kill()  # It may be the one that does not answer.
                return Death(f"no answer for {silent * LOOK_EVERY_S:.0f} s")
            if self._reload:
                self._reload = False
                reports.reload()
            self._look_after_front()
        return None

    def _look_after_front(self) -> None:
        if self._front and (line := self._front.keep_running()):
            print(line, flush=True)

    def _stop(self, guarded: Guarded) -> None:
        """Lets the requests under way be answered first. A second signal ends the wait."""
        print("stopping …", flush=True)
        front, asked = self._front, self._signals
        if front:
            front.drain()
            self._wait(lambda: not front.running or self._signals > asked, DRAIN_S)
        Reports(guarded.link).stop()
        self._wait(lambda: not guarded.running, STOP_S)

    def _wait(self, over: Callable[[], bool], timeout_s: float) -> None:
        until = time.monotonic() + timeout_s
        while not over() and time.monotonic() < until:
            time.sleep(WAITS_S)


@dataclass(frozen=True, slots=True)
class Death:
    """Why the runtime died, and whether another start may go better."""

    reason: str
    again: bool = True


@dataclass(frozen=True, slots=True)
class Verdict:
    """What comes after the end of the runtime: another start after `wait_s`, or the launcher's end with `status`."""

    wait_s: float = 0.0
    status: int | None = None
