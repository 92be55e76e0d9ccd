"""What a folder makes the libraries do is tried in a child: whatever would take too much is refused, in time."""

import json
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from tokenizers import Regex, Tokenizer, pre_tokenizers

from deployments.repository.manifest import Unservable
from deployments.validation.sandbox import Sandbox
from tests.support import PROJECT
from tests.support.tiny_models import save_text_model

REFUSED_WITHIN_S = 5.0


def cpu_seconds() -> float:
    """Of this thread and of all children: what would pass on the wall, were nobody else on the machine.

    A child's seconds count while it runs, too. Counted only once it has ended, they would all fall on the test that
    ends it: also the seconds in which it imported its module.
    """
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    running: list[float] = [sum(child.cpu_times()[:4]) for child in psutil.Process().children()]
    return time.thread_time() + ended.ru_utime + ended.ru_stime + sum(running)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text_model(tmp_path_factory.mktemp("whole") / "m")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """Warm, as a replica's is."""
    sandbox = Sandbox()
    sandbox.inspect(PROJECT / "models" / "gpt-nano")
    yield sandbox
    sandbox.close()


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    for file in whole.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def fault(sandbox: Sandbox, folder: Path) -> str | None:
    """Found by the child, or by what ended it."""
    try:
        return sandbox.inspect(folder)
    except Unservable as unservable:
        return str(unservable)


def template(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "chat_template.jinja").write_text(text)


def named_template(text: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        place = folder / "tokenizer_config.json"
        listed = [{"name": "default", "template": "fine"}, {"name": "rag", "template": text}]
        place.write_text(json.dumps(json.loads(place.read_text()) | {"chat_template": listed}))

    return change


def pattern(regex: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(regex), "isolated"), pre_tokenizers.ByteLevel(use_regex=False)]
        )
        tokenizer.save(str(folder / "tokenizer.json"))

    return change


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a constant": (template("{{ 'a' * 24000000000 }}"), "chat_template.jinja takes too much"),
    "doubling": (template("{% set n = namespace(s='ab') %}" + "{% set n.s = n.s * 99 %}" * 9), "takes too much"),
    "some megabytes": (named_template("{{ 'a' * 9999999 }}"), "in tokenizer_config.json multiplies its text"),
    "loops": (template("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"), "too long"),
    "a regex without end": (pattern(r"^(([a-z])+.)+[A-Z]([a-z])+$"), "tokenizer.json"),
    "a regex nearly without end": (pattern(r"(a+)+$"), "tokenizer.json"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").write_text("{}"), "tokenizer.json cannot be used"),
}


@pytest.mark.parametrize(
    ("break_it", "found"),
    [pytest.param(*case, id=name, marks=[pytest.mark.slow] * (name == "loops")) for name, case in HOSTILE.items()],
)
def test_a_hostile_folder_is_refused_in_time_and_the_next_folder_is_not(
    sandbox: Sandbox, folder: Path, whole: Path, break_it: Callable[[Path], object], found: str
) -> None:
    break_it(folder)
    started = cpu_seconds()
    assert found in (fault(sandbox, folder) or "")
    assert cpu_seconds() - started < REFUSED_WITHIN_S
    assert fault(sandbox, whole) is None


@pytest.mark.parametrize(
    "text",
    [
        "{{ raise_exception('no system') }}",
        "{% for m in messages %}{{ m.content }}{% generation %}{% endgeneration %}{% endfor %}",
        "{{ messages[0]['content'].__class__.__mro__ }}",
        "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] | trim }}{{ eos_token }}{% endfor %}",
    ],
)
def test_a_template_that_only_refuses_these_messages_passes(sandbox: Sandbox, folder: Path, text: str) -> None:
    template(text)(folder)
    assert fault(sandbox, folder) is None


def test_a_folder_with_nothing_to_try_starts_no_child(tmp_path: Path) -> None:
    sandbox = Sandbox()
    assert sandbox.inspect(tmp_path) is None
    assert sandbox._worker.process is None
    sandbox.close()
