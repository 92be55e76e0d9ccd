"""What the supervisor and the guarded process say to each other."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from serve_app.supervisor.link import Orders, Report, Reports

Pair = Callable[[], tuple[socket.socket, socket.socket]]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Makes connected sockets, which are closed in the end."""
    with ExitStack() as sockets:

        def connected() -> tuple[socket.socket, socket.socket]:
            ours, theirs = socket.socketpair()
            return sockets.enter_context(ours), sockets.enter_context(theirs)

        yield connected


def nothing() -> None:
    pass


def test_reports_arrive_whole_and_in_order(pair: Pair) -> None:
    ours, theirs = pair()
    orders, reports = Orders(theirs, nothing, nothing), Reports(ours)
    sent = [Report(watch={"raylet": 7}), Report(ready=True), Report(failed="no Ray", again=False)]
    for report in sent:
        orders.report(report)
    received: list[Report] = []
    while len(received) < len(sent):
        received += reports.read(60)
    assert received == sent
    assert reports.read(0.01) == []
    theirs.shutdown(socket.SHUT_RDWR)
    with pytest.raises(EOFError):
        reports.read(0)


def test_a_stop_and_a_reload_are_heard(pair: Pair) -> None:
    ours, theirs = pair()
    reloaded = threading.Event()
    orders, reports = Orders(theirs, reloaded.set, nothing), Reports(ours)
    reports.reload()
    assert reloaded.wait(10)
    assert not orders.stop.is_set()
    reports.stop()
    assert orders.stop.wait(10)


def test_a_supervisor_that_is_gone_stops_the_guarded_process(pair: Pair) -> None:
    ours, theirs = pair()
    orders = Orders(theirs, nothing, nothing)
    ours.close()
    assert orders.stop.wait(10)
    orders.report(Report())


def test_a_start_is_interrupted_but_not_one_who_waits_for_the_stop(pair: Pair) -> None:
    for idle in (False, True):
        ours, theirs = pair()
        interrupted = threading.Event()
        orders = Orders(theirs, nothing, interrupted.set)
        orders.idle = idle
        ours.close()
        assert orders.stop.wait(10)
        assert interrupted.wait(0 if idle else 10) != idle
