"""A changed configuration file is handed to Serve, and taken back where its replicas do not start."""

from pathlib import Path

import pytest

from deployments.families.table import FAMILIES
from serve_app.changes import Changes, Outcome
from serve_app.config.config import RuntimeConfig, read_config
from serve_app.config.reload import Reload

BATCH = "families: {text_generation: {max_batch_size: 4}}\n"


class Serve:
    """What it is given, and what becomes of it: None while it is at work."""

    def __init__(self) -> None:
        self.given: list[RuntimeConfig] = []
        self.outcome: Outcome | None = None

    def run(self, config: RuntimeConfig) -> None:
        self.given.append(config)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "runtime.yaml"
    file.write_text("")
    return file


@pytest.fixture
def serve() -> Serve:
    return Serve()


@pytest.fixture
def changes(file: Path, serve: Serve) -> Changes:
    reload = Reload(file, lambda: read_config(file), RuntimeConfig())
    return Changes(reload, FAMILIES, serve.run, lambda: serve.outcome)


def said(changes: Changes) -> list[str]:
    lines: list[str] = []
    changes.poll(lines.append)
    return lines


def test_a_change_is_handed_on_at_once_and_is_said_to_be_in_force_once_all_replicas_have_it(
    file: Path, serve: Serve, changes: Changes
) -> None:
    file.write_text(BATCH)
    assert said(changes) == ["runtime.yaml: families.text_generation changed, with 0 keys in force"]
    assert serve.given == [read_config(file)]
    assert said(changes) == []
    serve.outcome = Outcome()
    assert said(changes) == ["the change is in force after 0 s"]
    assert said(changes) == []


def test_what_a_change_waits_for_is_said_once_and_the_change_may_still_come_into_force(
    file: Path, serve: Serve, changes: Changes
) -> None:
    file.write_text(BATCH)
    said(changes)
    serve.outcome = Outcome(waits="a replica waits for 2 CPU")
    line = "the change is not in force yet, the old replicas go on: a replica waits for 2 CPU"
    assert [said(changes) for _ in range(3)] == [[line], [], []]
    serve.outcome = Outcome()
    assert said(changes) == ["the change is in force after 0 s"]


def test_a_change_with_which_no_replica_starts_is_taken_back_and_may_be_made_again(
    file: Path, serve: Serve, changes: Changes
) -> None:
    for _ in range(2):
        file.write_text(BATCH)
        changes.reload.forced = True
        assert len(said(changes)) == 1
        serve.outcome = Outcome("RuntimeError: no engine")
        assert said(changes) == ["the configuration stays as it was: RuntimeError: no engine"]
        assert serve.given[-2:] == [read_config(file), RuntimeConfig()]
        assert said(changes) == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("famlies: {}\n", "did you mean 'families'"),
        ("models: nowhere\n", "models: there is no folder 'nowhere'"),
        ("cache: /dev/null/cache\n", "cannot write to /dev/null/cache"),
        ("families: {text_generation: {num_cpus: 1000}}\n", "the replicas need"),
    ],
)
def test_what_no_replica_could_run_with_is_refused_in_one_line_and_changes_nothing(
    file: Path, serve: Serve, changes: Changes, text: str, reason: str
) -> None:
    file.write_text(text)
    (line,) = said(changes)
    assert line.startswith("the configuration stays as it was:")
    assert reason in line
    assert (serve.given, changes.reload.running) == ([], RuntimeConfig())


def test_what_serve_refuses_changes_nothing(file: Path, changes: Changes) -> None:
    def refuse(config: RuntimeConfig) -> None:
        raise ValueError("families: unknown family 'txet'")

    changes.run = refuse
    file.write_text(BATCH)
    assert said(changes)[1:] == ["the configuration stays as it was: families: unknown family 'txet'"]
    assert changes.reload.running == RuntimeConfig()
    assert said(changes) == []
