"""`model-runtime quarantine` against the HTTP routes, with a runtime that a test prescribes."""

import json
from dataclasses import asdict

import httpx
import pytest

from deployments.contract.status import QuarantinedInput
from serve_app.cli.main import main
from serve_app.cli.quarantine import _row
from serve_app.client.transports import HttpTransport
from tests.support.http_runtimes import FakeRuntime, http_app

INPUT = QuarantinedInput("5e0c", "image", "image_classification", "request-1", deaths=2, since=1.0, until=7201.0)


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> FakeRuntime:
    """Behind every client of the test, in its process."""
    runtime = FakeRuntime()
    app = http_app(runtime)

    def connect(self: HttpTransport, url: str, timeout_s: float, api_key: str | None) -> None:
        self.http = httpx.AsyncClient(base_url=url, transport=httpx.ASGITransport(app))

    monkeypatch.setattr(HttpTransport, "__init__", connect)
    return runtime


def test_the_list_is_a_table_for_people_and_json_for_programs(
    runtime: FakeRuntime, capsys: pytest.CaptureFixture[str]
) -> None:
    runtime.refused["5e0c"] = INPUT
    assert main(["quarantine"]) == 0
    _, row = capsys.readouterr().out.splitlines()
    assert row.split() == ["5e0c", "image", "image_classification", "2", "0", "min", "request-1"]
    assert _row(INPUT, now=1.0)[4] == "120 min"
    assert main(["quarantine", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"inputs": [asdict(INPUT)]}


def test_an_empty_list_is_said(runtime: FakeRuntime, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quarantine"]) == 0
    assert capsys.readouterr().out == "no input is refused\n"


def test_a_lifted_input_is_answered_again(runtime: FakeRuntime, capsys: pytest.CaptureFixture[str]) -> None:
    runtime.refused["5e0c"] = INPUT
    assert main(["quarantine", "lift", "5e0c"]) == 0
    assert (capsys.readouterr().out, runtime.refused) == ("5e0c of image is answered again\n", {})
    assert main(["quarantine", "lift", "5e0c"]) == 1
    assert capsys.readouterr().err.startswith("not_found: ")


def test_lift_needs_a_digest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quarantine", "lift"]) == 2
    assert capsys.readouterr().err == "usage: model-runtime quarantine [lift DIGEST]\n"
