"""What is found in a repository. The child is replaced; the real one is in test_worker.py."""

import json
from pathlib import Path
from typing import Any

import pytest

from deployments.families.table import FAMILIES
from deployments.system.worker_process import RequestFailed, WorkerFailed
from serve_app.config.config import RuntimeConfig
from serve_app.doctor.findings import Finding, Level
from serve_app.doctor.models import repository

LOADED = {"error": None, "seconds": 1.5, "bytes": 3 * 2**20, "notes": ["f32"]}


class Child:
    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.asked: list[Any] = []

    def ask(self, request: object, timeout_s: float) -> Any:
        self.asked.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def save(root: Path, name: str, config: dict[str, object]) -> None:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    (folder / "tokenizer.json").write_text("{}")


def text(root: Path, name: str) -> None:
    save(root, name, {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"})


def found(root: Path, child: Child) -> dict[str, Finding]:
    config = RuntimeConfig(models=root, cache=root.parent / "cache")
    return {one.what: one for one in repository(config, FAMILIES, child)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


def test_a_repository_that_is_none_is_a_fault_and_an_empty_one_a_warning(root: Path) -> None:
    assert found(root / "none", Child())["repository"].level is Level.FAULT
    assert found(root, Child())["repository"].level is Level.WARNING


def test_every_model_is_loaded_once_with_the_repositorys_absolute_path(root: Path) -> None:
    text(root, "a")
    text(root, "team/b")
    child = Child(LOADED, LOADED)
    assert found(root, child)["model a"].said == "text_generation, 3 MiB, loaded in 1.5 s; f32"
    assert [one["load"] for one in child.asked] == ["a", "team/b"]
    assert json.loads(child.asked[0]["config"])["models"] == str(root)


def test_a_folder_that_no_family_serves_is_a_fault_and_is_not_loaded(root: Path) -> None:
    save(root, "odd", {"architectures": ["NobodysModel"], "model_type": "nobodys"})
    child = Child()
    assert found(root, child)["model odd"].level is Level.FAULT
    assert child.asked == []


@pytest.mark.parametrize(
    ("answer", "said", "cure"),
    [
        ({"error": {"code": "model_load_failed", "message": "a: no weights"}}, "a: no weights", "change the folder"),
        (
            {"error": {"code": "out_of_memory", "message": "too large"}},
            "too large",
            "families.text_generation.required",
        ),
        ({"error": {"code": "internal", "message": "internal error"}}, "internal error", "have a look"),
        (WorkerFailed("signal", "SIGSEGV", "loading it"), "SIGSEGV) while it was loading it", "have a look"),
        (WorkerFailed("out of memory", "killed"), "out of memory: killed", "required_mem_mb"),
        (RequestFailed("KeyError: 'a'"), "KeyError: 'a'", "have a look"),
    ],
)
def test_a_model_that_does_not_load_says_why_and_what_to_do(root: Path, answer: Any, said: str, cure: str) -> None:
    text(root, "a")
    text(root, "b")
    findings = found(root, Child(answer, LOADED))
    assert findings["model a"].level is Level.FAULT
    assert said in findings["model a"].said
    assert cure in findings["model a"].cure
    assert findings["model b"].level is Level.OK
