"""A child answers line by line; whatever ends it, the parent learns why, and the next request has another child."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.system.worker_process import Reason, RequestFailed, WorkerFailed, WorkerProcess
from tests.support import PROJECT
from tests.support.until import wait_until

WORKER = "tests.support.worker"
LIMITED = "tests.support.limited_worker"
MIB = 2**20
PATIENCE_S = 60.0
SHORT_S = 0.2


@pytest.fixture
def worker() -> Iterator[WorkerProcess]:
    worker = WorkerProcess(WORKER)
    yield worker
    worker.close()


def runs(pid: int) -> bool:
    """Whether there is such a process; a zombie counts as one only where it is a child of this process."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state[0] != "Z" or int(state[1]) == os.getpid()


def ask(worker: WorkerProcess, *request: object, timeout_s: float = PATIENCE_S, cpu_s: float | None = None) -> object:
    answer: object = worker.ask(list(request), timeout_s, cpu_s)
    return answer


def pid_of(worker: WorkerProcess) -> int:
    assert worker.process is not None
    return worker.process.pid


def failure(
    worker: WorkerProcess, *request: object, timeout_s: float = PATIENCE_S, cpu_s: float | None = None
) -> WorkerFailed:
    with pytest.raises(WorkerFailed) as failed:
        ask(worker, *request, timeout_s=timeout_s, cpu_s=cpu_s)
    return failed.value


def test_one_child_answers_requests_of_any_size_one_after_another(worker: WorkerProcess) -> None:
    assert worker.process is None
    for content in ("", "ä\n\u2028", "x" * (3 * MIB), {"a": [1, None, "\udcff"]}):
        assert ask(worker, "echo", content) == content
    assert ask(worker, "pid") == pid_of(worker)


def test_many_threads_share_a_child(worker: WorkerProcess) -> None:
    answers: dict[int, object] = {}
    threads = [threading.Thread(target=lambda n=n: answers.update({n: ask(worker, "echo", n)})) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {n: n for n in range(16)}


def test_what_libraries_print_is_no_answer(worker: WorkerProcess) -> None:
    assert ask(worker, "print", '{"answer": "forged"}\n') == "printed"
    assert ask(worker, "echo", 1) == 1


def test_a_request_that_raises_leaves_the_child_running(worker: WorkerProcess) -> None:
    with pytest.raises(RequestFailed, match=r"^ValueError: the last line$"):
        ask(worker, "raise", "a line\nthe last line")
    pid = pid_of(worker)
    assert ask(worker, "pid") == pid


ENDS: dict[str, tuple[tuple[object, ...], Reason, str]] = {
    "crash": (("signal", int(signal.SIGSEGV)), "signal", "SIGSEGV"),
    "abort": (("signal", int(signal.SIGABRT)), "signal", "SIGABRT"),
    "exit": (("exit", 3), "exit", "code 3"),
    "kernel": (("signal", int(signal.SIGKILL)), "out of memory", "killed"),
}


@pytest.mark.parametrize(("request_", "reason", "detail"), ENDS.values(), ids=ENDS)
def test_a_child_that_ends_is_told_apart_and_replaced(
    worker: WorkerProcess, request_: tuple[object, ...], reason: Reason, detail: str
) -> None:
    pid = ask(worker, "pid")
    failed = failure(worker, *request_)
    assert (failed.reason, str(failed)) == (reason, f"{reason}: {detail}")
    assert worker.process is None
    assert ask(worker, "pid") != pid


def test_a_child_that_hangs_is_ended_and_its_last_step_is_known(worker: WorkerProcess) -> None:
    pid = ask(worker, "pid")
    assert isinstance(pid, int)
    failed = failure(worker, "hang", "second", timeout_s=SHORT_S)
    assert (failed.reason, failed.step) == ("timeout", "second")
    assert not runs(pid)
    assert ask(worker, "echo", 1) == 1


def test_a_child_that_computes_too_long_is_ended_by_its_cpu_time(worker: WorkerProcess) -> None:
    assert failure(worker, "burn", cpu_s=SHORT_S).reason == "timeout"
    assert ask(worker, "echo", 1, cpu_s=SHORT_S) == 1


def test_memory_is_limited_beyond_what_the_child_has_at_rest() -> None:
    worker = WorkerProcess(LIMITED)
    assert ask(worker, "allocate", 32 * MIB) == 32 * MIB
    assert failure(worker, "allocate", 128 * MIB).reason == "out of memory"
    worker.close()


def test_a_child_without_leave_to_write_files_writes_none(tmp_path: Path) -> None:
    worker = WorkerProcess(LIMITED)
    with pytest.raises(RequestFailed, match="OSError"):
        ask(worker, "write", str(tmp_path / "file"), 1)
    worker.close()


def test_an_answer_that_is_too_long_is_refused(worker: WorkerProcess) -> None:
    assert failure(worker, "repeat", "a", 2**26).reason == "protocol"
    assert ask(worker, "echo", 1) == 1


def test_closing_ends_the_child_its_children_and_a_request_under_way(worker: WorkerProcess) -> None:
    grandchild, pid = ask(worker, "child"), pid_of(worker)
    assert isinstance(grandchild, int)
    failed: list[WorkerFailed] = []
    asking = threading.Thread(target=lambda: failed.append(failure(worker, "hang", "")))
    asking.start()
    wait_until(worker._lock.locked)
    worker.close()
    asking.join()
    assert [one.reason for one in failed] == ["closed"]
    assert not runs(pid)
    wait_until(lambda: not runs(grandchild))
    assert failure(worker, "echo", 1).reason == "closed"
    worker.close()


def test_a_worker_that_nobody_holds_ends_its_child() -> None:
    worker = WorkerProcess(WORKER)
    pid = ask(worker, "pid")
    assert isinstance(pid, int)
    del worker
    assert not runs(pid)


def test_a_child_outlives_the_thread_that_asked_first(worker: WorkerProcess) -> None:
    """The kernel's signal for a dead parent comes when the thread ends that started the child."""
    pids: list[object] = []
    asking = threading.Thread(target=lambda: pids.append(ask(worker, "pid")))
    asking.start()
    asking.join()
    assert ask(worker, "pid") == pids[0]


PARENT = """
import sys, threading
from deployments.system.worker_process import WorkerProcess
worker = WorkerProcess("tests.support.worker")
pid = worker.ask(["pid"], 60)
threading.Thread(target=lambda: worker.ask(["burn"], 600), daemon=True).start()
try:
    print(pid, flush=True)
    sys.stdin.read()
except KeyboardInterrupt:
    print(worker.process.pid, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def parent() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(
        command, cwd=PROJECT, text=True, start_new_session=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        yield parent
        parent.kill()


def test_a_busy_child_of_a_parent_that_is_killed_ends(parent: subprocess.Popen[str]) -> None:
    assert parent.stdout
    pid = int(parent.stdout.readline())
    assert runs(pid)
    parent.kill()
    wait_until(lambda: not runs(pid))


def test_ctrl_c_ends_no_child(parent: subprocess.Popen[str]) -> None:
    """A terminal sends it to each process of the group in the foreground."""
    assert parent.stdout
    pid = int(parent.stdout.readline())
    os.killpg(parent.pid, signal.SIGINT)
    assert int(parent.stdout.readline()) == pid
    assert runs(pid)
