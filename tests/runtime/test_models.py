"""Models come, change and go on a runtime that answers all the while, and an operator's wishes are kept."""

import asyncio
import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
import yaml

from deployments.contract.errors import ModelNotFound
from deployments.contract.types import InferResponse, TextGeneration, TextGenerationResult
from serve_app.cli.main import main
from serve_app.client import AsyncModelRuntimeClient, ModelRuntimeClient
from tests.support.entrances import over_the_handle
from tests.support.running import Running
from tests.support.text_models import Reference
from tests.support.tiny_models import save_text_model
from tests.support.until import wait_until

PROMPT, TOKENS = "Once upon a time", 8


def ask(runtime: Running, model_id: str) -> InferResponse:
    return over_the_handle(runtime, TextGeneration(model_id=model_id, prompt=PROMPT, max_tokens=TOKENS))


def served(runtime: Running, model_id: str) -> str | None:
    """The name of the model that answers."""
    return getattr(ask(runtime, model_id), "model_id", None)


@pytest.fixture
def client(runtime: Running) -> Iterator[ModelRuntimeClient]:
    with ModelRuntimeClient(runtime.url) as client:
        yield client


@pytest.fixture
def shelf(runtime: Running, client: ModelRuntimeClient) -> Iterator[Path]:
    """A model of its own, version 1, with golden examples; gone afterwards."""
    folder = runtime.models / "changing"
    put_version(folder, 1)
    wait_until(lambda: served(runtime, "changing") == "changing@1")
    yield folder
    shutil.rmtree(folder)
    wait_until(lambda: "changing" not in {status.model_id for status in client.models()})


def put_version(folder: Path, version: int, **golden: object) -> Path:
    """As a copy does it: file by file, config.json first and the weights in halves."""
    whole = save_text_model(folder.parent / f".incoming-{version}")
    place = folder / str(version)
    place.mkdir(parents=True)
    text = Reference(whole).continuation(PROMPT, TOKENS)[0]
    example = {"prompt": PROMPT, "max_tokens": TOKENS, "text": text} | golden
    (place / "config.json").write_bytes((whole / "config.json").read_bytes())
    (place / "model.yaml").write_text(yaml.safe_dump({"golden": [example]}))
    weights = (whole / "model.safetensors").read_bytes()
    with (place / "model.safetensors").open("wb") as file:
        file.write(weights[: len(weights) // 2])
        file.flush()
        file.write(weights[len(weights) // 2 :])
    for file_name in whole.iterdir():
        if not (place / file_name.name).exists():
            (place / file_name.name).write_bytes(file_name.read_bytes())
    shutil.rmtree(whole)
    return place


@contextmanager
def load(runtime: Running, model_id: str) -> Iterator[list[InferResponse]]:
    """Four callers who ask one after another, and all that they are answered."""
    answers: list[InferResponse] = []
    over = threading.Event()

    def call() -> None:
        while not over.is_set():
            answers.append(ask(runtime, model_id))

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    try:
        yield answers
    finally:
        over.set()
        for caller in callers:
            caller.join()


def failures(answers: list[InferResponse]) -> list[InferResponse]:
    return [answer for answer in answers if not isinstance(answer, TextGenerationResult)]


def test_a_new_version_takes_over_under_load_and_hands_back_with_no_failed_request(
    runtime: Running, shelf: Path, client: ModelRuntimeClient
) -> None:
    with load(runtime, "changing") as answers:
        put_version(shelf, 2)
        wait_until(lambda: served(runtime, "changing") == "changing@2")
        assert client.model("changing").versions == [1, 2]
        shutil.rmtree(shelf / "2")
        wait_until(lambda: served(runtime, "changing") == "changing@1")
        wait_until(lambda: not [r for r in client.model("changing").replicas if r.version == 2 and r.state == "ready"])
    assert failures(answers) == []
    assert len(answers) > 20


def test_what_comes_and_what_goes_is_noticed_within_two_seconds(
    runtime: Running, client: ModelRuntimeClient, tmp_path: Path
) -> None:
    """At best of three times: the machine may be busy."""

    def listed() -> bool:
        return "quick" in {status.model_id for status in client.models()}

    came, went = [], []
    for number in range(3):
        whole = save_text_model(runtime.models / f".quick-{number}")
        whole.rename(runtime.models / "quick")
        since = time.monotonic()
        wait_until(listed)
        came.append(time.monotonic() - since)
        (runtime.models / "quick").rename(tmp_path / f"gone-{number}")
        since = time.monotonic()
        wait_until(lambda: not listed())
        went.append(time.monotonic() - since)
    assert min(came) < 2
    assert min(went) < 2


@pytest.mark.parametrize("fault", ["truncated", "golden", "pointer"])
def test_a_broken_version_never_serves_and_its_status_says_why(
    runtime: Running, shelf: Path, client: ModelRuntimeClient, fault: str
) -> None:
    with load(runtime, "changing") as answers:
        place = put_version(shelf, 2, **({"text": "something else"} if fault == "golden" else {}))
        if fault == "truncated":
            (place / "model.safetensors").write_bytes((place / "model.safetensors").read_bytes()[:-1])
        elif fault == "pointer":
            (place / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
        said = {"truncated": "is truncated", "golden": "something else", "pointer": "git lfs pull"}[fault]
        wait_until(lambda: said in client.model("changing").refused.get("changing@2", ""))
        assert served(runtime, "changing") == "changing@1"
    assert failures(answers) == []
    assert {answer.model_id for answer in answers} == {"changing@1"}  # type: ignore[attr-defined]
    assert said in (client.model("changing").reason or "")
    assert ask(runtime, "changing@2").code == "model_load_failed"  # type: ignore[attr-defined]


def registry_actor() -> object:
    names = ray.util.list_named_actors(all_namespaces=True)
    (found,) = [named for named in names if "model_registry" in named["name"]]
    return ray.get_actor(found["name"], found["namespace"])


def test_pins_outlive_the_registry_actor_and_requests_go_on_without_it(
    runtime: Running, shelf: Path, client: ModelRuntimeClient
) -> None:
    assert not client.model("changing").pinned
    assert client.pin("changing").pinned
    with load(runtime, "changing") as answers:
        killed: Any = registry_actor()
        ray.kill(killed)
        put_version(shelf, 2)
        # Only another actor can have seen it.
        wait_until(lambda: served(runtime, "changing") == "changing@2")
    assert failures(answers) == []
    assert client.model("changing").pinned
    assert not client.pin("changing", False).pinned


def test_models_are_loaded_unloaded_and_planned_over_http_and_the_handle(runtime: Running, shelf: Path) -> None:
    for target in (runtime.url, runtime.handle):
        with ModelRuntimeClient(target) as client:
            loaded = client.load("changing")
            assert loaded.state == "ready"
            assert loaded.resident_bytes[0] > 0
            unloaded = client.unload("changing@1")
            assert unloaded.state == "available"
            assert unloaded.loads > 0
            assert unloaded.last_use is not None
            unloads = [there.last_unload for there in unloaded.replicas if there.version == 1]
            gone = next(unload for unload in unloads if unload is not None)
            assert gone.bytes >= loaded.resident_bytes[0]
            assert min(gone.process_bytes_before, gone.process_bytes_after) > 0
            (plan,) = client.plan("changing")
            assert plan.fits
            with pytest.raises(ModelNotFound, match="did you mean 'changing'"):
                client.load("changin")
    assert httpx.get(f"{runtime.url}/models/team/nested").json()["family"] == "text_generation"
    reply = httpx.post(f"{runtime.url}/models/broken/load", timeout=60)
    assert reply.status_code == 503
    assert reply.json()["Error"]["code"] == "model_load_failed"


async def test_200_callers_of_a_cold_model_make_one_load(
    runtime: Running, shelf: Path, client: ModelRuntimeClient
) -> None:
    cold = client.unload("changing")
    assert cold.state == "available"
    async with AsyncModelRuntimeClient(runtime.url) as callers:
        answers = await asyncio.gather(*(callers.generate("changing", PROMPT, TOKENS) for _ in range(200)))
    assert len({answer.generated_text for answer in answers}) == 1
    assert client.model("changing").loads == cold.loads + 1


def test_the_command_line_does_the_same(runtime: Running, shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def told(*arguments: str) -> str:
        assert main(["models", *arguments, "--url", runtime.url]) == 0
        return capsys.readouterr().out

    assert "ready" in told("load", "changing")
    assert "1 of 1" in told("show", "changing")
    assert "pinned" in told("pin", "changing")
    assert "pinned" not in told("unpin", "changing")
    assert "is in memory" in told("plan", "changing")
    assert json.loads(told("show", "changing", "--json"))["state"] == "ready"
    assert json.loads(told("plan", "changing", "--json"))[0]["resident"]
    assert "available" in told("unload", "changing")
