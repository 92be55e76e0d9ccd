"""How soon a change on disk takes effect for HTTP clients: `python -m benchmarks.residency changes`.

Against `model-runtime serve`, while a caller sends requests to one model all the time. Folders are renamed into place.
"""

import os
import shutil
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from transformers import AutoModelForCausalLM

from benchmarks.environment import OUR_BIN
from benchmarks.models import save_llama
from benchmarks.report import US
from benchmarks.servers import Server, running
from deployments.contract.errors import ModelNotFound, ServingError
from deployments.contract.status import ModelStatus
from serve_app.bench.machine import machine
from serve_app.client import ModelRuntimeClient

ROUNDS = 5
GIVE_UP_S = 60.0
PROMPT, TOKENS = "stone river cloud", 4


class Shelf:
    """The repository under test. Folders appear and disappear by one rename."""

    def __init__(self, folder: Path) -> None:
        self.models = folder / "models"
        self.store = folder / "store"
        self.drafts = folder / "drafts"
        self.drafts.mkdir()
        self.models.mkdir()
        self.template = save_llama(folder / "template", layers=2, hidden=64, intermediate=128, heads=2)

    def put(self, name: str, change: Callable[[Path], object] = lambda folder: None) -> float:
        """The time at which it appeared."""
        draft = self.drafts / name.replace("/", "-")
        shutil.copytree(self.template, draft)
        change(draft)
        folder = self.models / name
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft.rename(folder)
        return time.monotonic()

    def take(self, name: str) -> float:
        """The time at which it disappeared."""
        (self.models / name).rename(self.drafts / "taken")
        taken = time.monotonic()
        shutil.rmtree(self.drafts / "taken")
        return taken


def truncated(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


def other_weights(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    for parameter in model.parameters():
        parameter.data.mul_(-1.5)
    model.save_pretrained(folder)


class Watcher:
    """Repeats a request until a condition holds, and records how long that took."""

    def __init__(self, client: ModelRuntimeClient) -> None:
        self.client = client
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)

    def until(self, what: str, since: float, condition: Callable[[], bool]) -> None:
        while not condition():
            if time.monotonic() - since > GIVE_UP_S:
                raise SystemExit(f"{what}: not within {GIVE_UP_S:.0f} s")
            time.sleep(0.01)
        self.seconds[what].append(time.monotonic() - since)

    def status(self, model_id: str) -> ModelStatus | None:
        try:
            return self.client.model(model_id)
        except ModelNotFound:
            return None

    def text(self, model_id: str) -> str:
        return self.client.generate(model_id, PROMPT, TOKENS).generated_text


def one_round(shelf: Shelf, watch: Watcher, number: int) -> None:
    new = f"new-{number}"
    since = shelf.put(new)
    watch.until("a new model is listed", since, lambda: watch.status(new) is not None)
    since = shelf.put("m/2")
    watch.until("a new version is listed", since, lambda: watch.client.model("m").versions == [1, 2])
    watch.until("it is loaded, validated and serves", since, lambda: watch.client.model("m").version == 2)
    since = shelf.put("m/3", truncated)
    watch.until("a broken version is refused, with its reason", since, lambda: "m@3" in watch.client.model("m").refused)
    shelf.take("m/3")
    since = shelf.take("m/2")
    watch.until("after a removed version the next one serves", since, lambda: watch.client.model("m").version == 1)
    (shelf.models / new / "model.yaml").write_text("pinned: true\n")
    watch.until("a changed model.yaml takes effect", time.monotonic(), lambda: watch.client.model(new).pinned)
    since = shelf.take(new)
    watch.until("a removed model is gone", since, lambda: watch.status(new) is None)


def source_round(shelf: Shelf, watch: Watcher, number: int) -> None:
    before = watch.text("elsewhere")
    other_weights(shelf.store)
    what = "a changed source (polled every 15 s) is fetched, validated and serves"
    watch.until(what, time.monotonic(), lambda: watch.text("elsewhere") != before)


@contextmanager
def requests_all_the_time(url: str) -> Iterator[list[str]]:
    """The failure of each request so far, empty where it had none."""
    outcomes: list[str] = []
    over = threading.Event()

    def ask() -> None:
        with ModelRuntimeClient(url) as client:
            while not over.is_set():
                try:
                    client.generate("m", PROMPT, TOKENS)
                    outcomes.append("")
                except ServingError as failure:
                    outcomes.append(str(failure))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield outcomes
    finally:
        over.set()
        asking.join()


def changes() -> None:
    print(f"{machine()}\n")
    with tempfile.TemporaryDirectory(prefix="changes", dir="/tmp") as place:
        folder = Path(place)
        shelf = Shelf(folder)
        shutil.copytree(shelf.template, shelf.store)
        shelf.put("m/1")
        (shelf.models / "elsewhere").mkdir()
        source = {"source": f"file://{shelf.store}", "family": "text_generation", "memory_mb": 16}
        (shelf.models / "elsewhere" / "model.yaml").write_text(yaml.safe_dump(source))
        config = folder / "runtime.yaml"
        settings = {"models": str(shelf.models), "cache": str(folder / "cache"), "sources": ["file://"]}
        config.write_text(yaml.safe_dump(settings))
        server = Server(
            US,
            (OUR_BIN / "model-runtime", "serve", "--config", config, "--port", "{port}"),
            "/infer",
            lambda prompt: {"TextGeneration": {"model_id": "m", "prompt": prompt, "max_tokens": TOKENS}},
            lambda reply: reply,
            {"PYTHONPATH": os.environ.get("PYTHONPATH", "")},
        )
        with running(server, PROMPT) as infer:
            url = infer.removesuffix("/infer")
            client = ModelRuntimeClient(url)
            watch = Watcher(client)
            with requests_all_the_time(url) as outcomes:
                for number in range(ROUNDS):
                    one_round(shelf, watch, number)
                for number in range(2):
                    source_round(shelf, watch, number)
    print("| seconds until | median | longest |\n|---|--:|--:|")
    for what, seconds in watch.seconds.items():
        print(f"| {what} | {sorted(seconds)[len(seconds) // 2]:.2f} | {max(seconds):.2f} |")
    failed = [outcome for outcome in outcomes if outcome]
    print(f"\n{len(outcomes)} requests meanwhile, {len(failed)} failed{': ' + failed[0] if failed else ''}")
