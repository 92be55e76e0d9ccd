"""Scans, validates and loads each model of a repository, as registry and replicas do; prints a line of JSON for each.

An audit hook says what of the repository was executed, imported or unpickled, and who was connected to.
"""

import json
import sys
import time
from pathlib import Path

import psutil

from deployments.contract.errors import ServingError
from deployments.families.table import FAMILIES
from deployments.replica.family import model_formats
from deployments.repository.local import Repository
from deployments.repository.model import Model
from deployments.validation.validator import ModelValidator
from tests.support.text_models import ask, load_single

NEW_TOKENS = 4


class Watch:
    """`events`: what ran of the folders below `root`, since the last look."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.events: list[str] = []
        sys.addaudithook(self.heard)

    def heard(self, event: str, arguments: tuple[object, ...]) -> None:
        if event == "exec":
            ran = getattr(arguments[0], "co_filename", "")
            if str(ran).startswith(self.root):
                self.events.append(f"exec {ran}")
        elif event == "import" and str(arguments[1] or "").startswith(self.root):
            self.events.append(f"import {arguments[1]}")
        elif event in ("os.system", "socket.connect", "pickle.find_class"):
            self.events.append(f"{event} {arguments[-1]!r}")

    def taken(self) -> list[str]:
        events, self.events = self.events, []
        return events


def cpu_s() -> float:
    """Of this process and of all its children, ended or not: what would pass on the wall of an idle machine."""
    own = psutil.Process()
    times: list[float] = [sum(child.cpu_times()[:4]) for child in own.children(recursive=True)]
    return float(sum(own.cpu_times()[:4])) + sum(times)


def answer(model: Model, validator: ModelValidator) -> tuple[str | None, str]:
    """Why the model does not answer, or None and its text."""
    if model.problem is not None:
        return model.problem, ""
    try:
        engine = load_single(validator.validate(model))
    except ServingError as refused:
        return refused.message, ""
    try:
        return None, ask(engine, "a", NEW_TOKENS).text
    finally:
        engine.close()


def say(name: str, seconds: float, events: list[str], fault: str | None, text: str) -> None:
    said = {"name": name, "seconds": seconds, "events": events, "fault": fault, "text": text}
    print(json.dumps(said), flush=True)


def main(root: Path, cache: Path) -> None:
    formats = model_formats(FAMILIES)
    validator = ModelValidator(root, cache)
    watch = Watch(root)
    started = cpu_s()
    found = Repository(root, formats).scan()
    say("", cpu_s() - started, watch.taken(), None, "")
    for model in sorted(found, key=lambda model: model.name):
        started, began = cpu_s(), time.monotonic()
        fault, text = answer(model, validator)
        seconds = min(cpu_s() - started, time.monotonic() - began)
        say(model.name, seconds, watch.taken(), fault, text)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
