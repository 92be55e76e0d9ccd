"""`make test-faults`: the configuration changes 20 times under streams, one replica a family; no caller notices."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.families.table import FAMILIES
from serve_app.access.api_keys import new_key
from tests.faults.served import PARTS, Served, calling, serving
from tests.support.ports import free_port
from tests.support.tiny_models import save_text_model
from tests.support.until import wait_until

pytestmark = [
    pytest.mark.skipif("FAULTS" not in os.environ, reason="make test-faults: minutes"),
    pytest.mark.timeout(900),
]

STREAMS = int(os.environ.get("FAULTS_STREAMS", "20"))
LONGEST_STALL_S = float(os.environ.get("FAULTS_STALL_S", "1"))
TOKENS = 400
SECRET, SHA256 = new_key()
KEYS = {"keys": {"caller": {"sha256": SHA256}}}
MORE_KEYS = {"keys": {**KEYS["keys"], "another": {"sha256": "0" * 64, "requests_per_day": 5}}}
IN_FORCE, REFUSED = "the change is in force after", "the configuration stays as it was"
Change = dict[str, Any]


def text(**settings: object) -> Change:
    return {"families": {"text_generation": settings}}


CHANGES: list[tuple[Change | str, set[str] | None]] = [
    ({"access": MORE_KEYS}, set()),
    (text(deadline_s=50), set()),
    (text(max_batch_size=8), {"text replica"}),
    ("famlies: {}", None),
    (text(preload=["text"]), {"text replica"}),  # and its batch size, which is the default again
    (text(preload=["text"], max_queued_requests=99), set()),
    ({"ingress": {"access_log": True}}, {"ingress"}),
    ("families: [", None),
    ({}, {"ingress"}),
    (text(unload_idle_s=500), set()),
    ({"models": "others"}, {"ingress"}),
    ({"models": "nowhere"}, None),
    (text(max_cpu_share=0.9), {"ingress", "text replica"}),  # and the models, which are the first ones again
    (text(num_cpus=1000), None),
    (text(max_cpu_share=0.9, autoscaling={"min_replicas": 1, "max_replicas": 2}), set()),
    ({"access": MORE_KEYS, **text(required_mem_mb=500)}, {"text replica"}),
    (text(max_batch_size=0), None),
    (text(required_mem_mb=500, max_deadline_s=90), set()),
    ({"ingress": {"max_prompt_kb": 5}, **text(required_mem_mb=500)}, {"ingress"}),
    ({}, {"ingress", "text replica"}),
]
"""Each with what it replaces; None: it is broken."""


def content(change: Change | str, models: Path) -> str:
    if isinstance(change, str):
        return change
    one = {"autoscaling": {"min_replicas": 1, "max_replicas": 1}, "num_cpus": 0}
    none = {"autoscaling": {"min_replicas": 0, "max_replicas": 1}, "num_cpus": 0}
    families = {family.name: one if family.name == "text_generation" else none for family in FAMILIES}
    families["text_generation"] = one | change.get("families", {}).get("text_generation", {})
    whole = {
        "models": str(models.parent / change.get("models", models.name)),
        "access": change.get("access", KEYS),
        "ingress": {"num_cpus": 0} | change.get("ingress", {}),
        "families": families,
    }
    return json.dumps(whole)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for place in ("models", "others"):
        save_text_model(tmp_path / place / "text")
    return tmp_path / "models"


@pytest.fixture
def served(tmp_path: Path, models: Path) -> Iterator[Served]:
    with serving(tmp_path, free_port(), None, content({}, models)) as served:
        yield served


@dataclass
class Streams:
    """Callers who read one stream after the other and never try again."""

    url: str
    whole: int = 0
    failed: list[str] = field(default_factory=list)
    stall_s: float = 0.0
    """The longest time without an event, from a request on."""
    _over: threading.Event = field(default_factory=threading.Event)
    _text: str = ""

    @contextmanager
    def running(self) -> Iterator["Streams"]:
        with calling(self._call, STREAMS, self._over):
            yield self

    def go_on(self, whole: int) -> bool:
        """Whether each caller has read one since there were so many."""
        return self.whole > whole + STREAMS

    def _call(self) -> None:
        body = {"TextGeneration": {"model_id": "text", "prompt": "a", "max_tokens": TOKENS, "stream": True}}
        with httpx.Client(timeout=70, headers={"authorization": f"Bearer {SECRET}"}) as client:
            while not self._over.is_set():
                try:
                    self._read(client, body)
                except (httpx.HTTPError, AssertionError) as failure:
                    self.failed.append(f"{type(failure).__name__}: {failure}"[:300])

    def _read(self, client: httpx.Client, body: Mapping[str, object]) -> None:
        last, result = time.monotonic(), ""
        with client.stream("POST", f"{self.url}/infer", json=body) as reply:
            assert reply.is_success, reply.read()
            for line in filter(None, reply.iter_lines()):
                now, result = time.monotonic(), line
                self.stall_s, last = max(self.stall_s, now - last), now
        assert "TextGenerationResult" in result, result
        text = json.loads(result.removeprefix("data: "))["TextGenerationResult"]["generated_text"]
        self._text = self._text or text
        assert text == self._text
        self.whole += 1


def processes(served: Served, names: Iterable[str] = ("ingress", "text replica")) -> dict[str, set[int]]:
    return {name: {process.pid for process in served.parts(name)} for name in names}


def _is_let_in(served: Served, secret: str) -> bool:
    reply = httpx.get(f"{served.url}/models", headers={"authorization": f"Bearer {secret}"}, timeout=10)
    return reply.is_success


def _is_said(served: Served, told: int, wanted: str) -> bool:
    return wanted in served.log.read_text()[told:]


def _are_replaced(served: Served, before: dict[str, set[int]], wanted: set[str]) -> bool:
    """Ray says that a process has ended a little before it has."""
    after = processes(served)
    return {name for name in before if not before[name] & after[name]} == wanted


def test_a_changed_file_replaces_what_it_touches_and_no_stream_is_cut(served: Served, models: Path) -> None:
    file = served.log.parent / "runtime.yaml"
    with Streams(served.url).running() as streams:
        wait_until(lambda: streams.whole > STREAMS, "the streams run", 60)
        for change, replaced in CHANGES:
            before, told = processes(served), len(served.log.read_text())
            begun, streams.stall_s = time.monotonic(), 0.0
            file.write_text(content(change, models))
            wanted = REFUSED if replaced is None else IN_FORCE
            wait_until(partial(_is_said, served, told, wanted), f"{change}", 180)
            took_s = time.monotonic() - begun
            told_now = served.log.read_text()[told:].strip().replace("\n", "; ")
            assert (IN_FORCE in told_now) == (replaced is not None), "nothing broken is in force"
            print(f"{took_s:5.1f} s, stall {streams.stall_s:.2f} s, {streams.whole} whole: {told_now}")
            wait_until(partial(_are_replaced, served, before, replaced or set()), f"{change}: {replaced}", 30)
            assert streams.failed == []
            assert streams.stall_s <= LONGEST_STALL_S
        before = processes(served, PARTS)
        for _ in range(10):
            served.process.send_signal(signal.SIGHUP)
            wait_until(partial(streams.go_on, streams.whole), "the streams run", 60)
        for number in range(5):
            secret, sha256 = new_key()
            keys = KEYS["keys"] | {f"caller-{number}": {"sha256": sha256}}
            file.write_text(content({"access": {"keys": keys}}, models))
            wait_until(partial(_is_let_in, served, secret), "the key is in force", 60)
        assert processes(served, PARTS) == before
    assert streams.failed == []
