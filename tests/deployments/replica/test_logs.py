"""Our loggers write where Serve writes, and elsewhere stay as they were."""

import json
import logging
from collections.abc import Iterator
from logging.handlers import MemoryHandler

import pytest
from ray._common.formatters import JSONFormatter

from deployments.contract.failures import error_of
from deployments.replica.logs import OURS, join_serves_log


@pytest.fixture
def _loggers_as_before() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in (*OURS, "ray.serve")]
    before = [(one, one.handlers, one.level, one.propagate) for one in loggers]
    yield
    for one, handlers, level, propagate in before:
        one.handlers, one.propagate = handlers, propagate
        one.setLevel(level)


class Lines(logging.Handler):
    """In place of Serve's file."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JSONFormatter())
        self.lines: list[dict[str, object]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(json.loads(self.format(record)))


@pytest.mark.usefixtures("_loggers_as_before")
def test_an_internal_errors_id_leads_to_its_traceback_in_serves_file() -> None:
    file, serve = Lines(), logging.getLogger("ray.serve")
    serve.handlers = [MemoryHandler(1, target=file)]
    serve.setLevel(logging.INFO)
    join_serves_log()
    logging.getLogger("model_runtime.residency").info("loaded m")
    try:
        raise KeyError("the reason")
    except KeyError as cause:
        error_of(cause, "a-request")
    info, failure = file.lines
    assert (info["levelname"], info["message"]) == ("INFO", "loaded m")
    assert (failure["levelname"], failure["request_id"]) == ("ERROR", "a-request")
    assert "KeyError: 'the reason'" in str(failure["exc_text"])
    assert failure["asctime"]


@pytest.mark.usefixtures("_loggers_as_before")
def test_without_a_file_of_serves_nothing_changes() -> None:
    logging.getLogger("ray.serve").handlers = [logging.StreamHandler()]
    join_serves_log()
    assert all(logging.getLogger(name).propagate for name in OURS)
