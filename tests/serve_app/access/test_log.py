"""The access log's lines: those that Serve's own handlers would write, in Serve's own file, and none is lost."""

import asyncio
import io
import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from ray.serve._private.common import ServeComponentType
from ray.serve._private.logging_utils import configure_component_logger
from ray.serve.schema import LoggingConfig

from deployments.contract.status import AnsweredRequest
from serve_app.access import log as access_log
from serve_app.access.log import AccessLog
from tests.support.until import until

ANSWERED = AnsweredRequest(
    request_id="r 100 %",
    arrived_at=1000.25,
    key='"team"',
    family="text_generation",
    model="m",
    outcome="ok",
    reason=None,
    queue_s=0.25,
    total_s=1.5,
    replica="abc",
    repeated=False,
    tokens=22,
)


class Serve:
    """Serve's logger in a replica, as Serve itself sets it up."""

    def __init__(self, folder: Path, encoding: str) -> None:
        self.folder = folder
        self.stderr = sys.stderr = io.StringIO()
        configure_component_logger(
            component_name="app_Ingress",
            component_id="here",
            component_type=ServeComponentType.REPLICA,
            logging_config=LoggingConfig(encoding=encoding, logs_dir=str(folder)),
            max_bytes=10_000,
            backup_count=2,
        )
        self.logger = logging.getLogger("ray.serve")

    def file(self) -> list[str]:
        files = sorted(self.folder.glob("*.log*"), reverse=True)
        return [line for file in files for line in file.read_text().splitlines()]

    async def has(self, lines: int) -> None:
        await until(lambda: len(self.file()) == lines)


@pytest.fixture
def serve(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    logger = logging.getLogger("ray.serve")
    before = (logger.handlers[:], logger.level, logger.propagate)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    yield Serve(tmp_path, getattr(request, "param", "JSON"))
    for handler in logger.handlers:
        getattr(handler, "target", handler).close()
    logger.handlers[:], logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


def without_time(line: str) -> str:
    head, _, rest = line.partition(" ")
    return f"{head} {rest[len('1970-01-01 00:00:00,000') :]}"


def test_a_line_is_what_serves_own_handlers_make_of_the_request(serve: Serve) -> None:
    serve.logger.info("ok text_generation m in 1.5000 s", extra=asdict(ANSWERED))
    log = AccessLog()
    asyncio.run(added(log, [ANSWERED]))
    by_serve, ours = map(json.loads, serve.file())
    assert ours["asctime"] == logging.Formatter().formatTime(logging.makeLogRecord({"created": 1001.75, "msecs": 750}))
    assert (by_serve["replica"], ours["replica"]) == ("here", "abc")  # Its own one, and the one that answered.
    differ = ("asctime", "filename", "lineno", "timestamp_ns", "replica")
    assert {k: v for k, v in ours.items() if k not in differ} == {k: v for k, v in by_serve.items() if k not in differ}
    assert [*ours][:3] == ["asctime", "levelname", "message"]
    by_serve, ours = map(without_time, serve.stderr.getvalue().splitlines())
    assert ours == by_serve


@pytest.mark.parametrize("serve", ["TEXT"], indirect=True)
def test_the_file_has_text_where_serve_is_told_so(serve: Serve) -> None:
    asyncio.run(added(AccessLog(), [ANSWERED]))
    assert serve.file() == serve.stderr.getvalue().splitlines()
    assert serve.file()[0].endswith(" app_Ingress here r 100 % -- ok text_generation m in 1.5000 s")


async def added(log: AccessLog, answered: list[AnsweredRequest]) -> None:
    for one in answered:
        log.add(one)
    log.write()


async def test_lines_are_written_by_themselves_and_in_order(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "WRITE_EVERY_S", 0.01)
    log = AccessLog()
    for number in range(2):
        log.add(replace(ANSWERED, tokens=2 * number))
        log.add(replace(ANSWERED, tokens=2 * number + 1))
        await serve.has(2 * number + 2)
    assert [json.loads(line)["tokens"] for line in serve.file()] == [0, 1, 2, 3]


async def test_so_many_lines_do_not_wait_for_their_time(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "MOST_WAITING", 3)
    log = AccessLog()
    for _ in range(4):
        log.add(ANSWERED)
    assert len(serve.file()) == 3
    log.write()
    assert len(serve.file()) == 4


def test_a_file_that_is_full_is_followed_by_another(serve: Serve) -> None:
    for number in range(4):
        asyncio.run(added(AccessLog(), [replace(ANSWERED, tokens=10 * number + one) for one in range(10)]))
    assert len(list(serve.folder.iterdir())) == 3  # Of Serve's: two older ones are kept.
    assert [json.loads(line)["tokens"] for line in serve.file()] == list(range(10, 40))


def test_a_disk_that_is_full_fails_no_request(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError("no space left")

    handler = serve.logger.handlers[0]
    assert isinstance(handler, logging.StreamHandler)
    assert handler.setStream(Full()) is serve.stderr
    asyncio.run(added(AccessLog(), [ANSWERED]))
    assert len(serve.file()) == 1


def test_nothing_is_written_where_serve_writes_only_warnings(serve: Serve) -> None:
    serve.logger.setLevel(logging.WARNING)
    asyncio.run(added(AccessLog(), [ANSWERED]))
    assert serve.file() == []
