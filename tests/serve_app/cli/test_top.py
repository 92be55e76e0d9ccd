"""`model-runtime top` without a terminal, and when the runtime goes away."""

import httpx
import pytest

from deployments.contract.errors import Unavailable
from serve_app.cli.main import main
from serve_app.cli.top import look_again
from serve_app.client.client import ModelRuntimeClient
from serve_app.top.sampling import History, Sample
from tests.serve_app.top.test_sampling import metrics
from tests.serve_app.top.test_screen import MODELS
from tests.support.ports import free_port


def test_without_a_terminal_it_prints_what_two_looks_show(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looks = iter([metrics(10, 1, 100, 10, 0), metrics(30, 5, 500, 30, 10)])

    def get(self: httpx.Client, url: str) -> httpx.Response:
        return httpx.Response(200, text=next(looks), request=httpx.Request("GET", url))

    monkeypatch.setattr(ModelRuntimeClient, "models", lambda self: MODELS)
    monkeypatch.setattr(httpx.Client, "get", get)
    assert main(["top", "--url", "http://x", "--every", "0"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert ("gpt" in out, "overloaded" in out, "no weights" in out) == (True, True, True)


def test_a_runtime_that_cannot_be_reached_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "--url", f"http://127.0.0.1:{free_port()}"]) == 1
    assert "cannot be reached" in capsys.readouterr().err


def test_a_look_that_fails_is_said_and_the_next_one_counts() -> None:
    history = History()
    looks = iter([Sample(0.0, {}, []), None, Sample(2.0, {}, [])])

    def look() -> Sample:
        sample = next(looks)
        if sample is None:
            raise Unavailable("gone")
        return sample

    assert [look_again(history, look) for _ in range(3)] == ["", "gone", ""]
    assert history.period is not None
    assert history.period.seconds == 2.0
