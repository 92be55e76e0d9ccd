"""Which version of each model serves, and which models are pinned: decided here alone, for the whole runtime. No Ray.

A version that is found beside one that serves is tried first, and takes its place only when the trial went well. What
a trial came to holds for a version's content, and is forgotten when its files change.
"""

import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from deployments.contract.errors import ModelLoadFailed, ServingError
from deployments.repository.model import Model, rank

FIRST_BACK_OFF_S = 2.0
LAST_BACK_OFF_S = 300.0


@dataclass(frozen=True, slots=True)
class Table:
    """The models by the names they answer to, and what there is to say of those that do not serve."""

    models: dict[str, Model] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    """By the name of a version that was found and does not serve: why."""


@dataclass
class _Later:
    """A trial that could not take place: it is no fault of the model's."""

    reason: str
    back_off_s: float
    at: float


class ModelRegistry:
    """`kept` is what an earlier board's `kept` gave."""

    def __init__(self, kept: bytes | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        remembered = json.loads(kept) if kept else {}
        self.clock = clock
        self._pins: dict[str, bool] = remembered.get("pins", {})
        self._passed: dict[str, str] = remembered.get("passed", {})  # by name: the content that did
        self._faults: dict[str, list[str]] = remembered.get("faults", {})  # by name: the content, and why
        self._served: dict[str, str] = remembered.get("served", {})  # by id: what served, before this board
        self._found: dict[str, Model] = {}
        self._missing: set[str] = set()
        self._unsettled: set[str] = set()
        self._serving: dict[str, Model] = {}
        self._later: dict[str, _Later] = {}
        self._retired: list[Model] = []

    def observe(self, found: Sequence[Model]) -> None:
        """Takes what a scan of the repository found."""
        now = {model.name: model for model in found}
        # Missing once may be a folder that another is just being put in place of.
        missing = self._found.keys() - now.keys()
        now |= {name: self._found[name] for name in missing - self._missing}
        self._missing = missing - self._missing
        # Files that changed since the last scan may still be coming in.
        self._unsettled = {
            n for n, model in now.items() if n not in self._found or self._found[n].digest != model.digest
        }
        self._found = now
        self._forget()
        self._decide()

    def to_try(self) -> list[Model]:
        """The versions whose trial is due."""
        due = []
        for model_id, versions in self._versions().items():
            best, serving = self._best(versions), self._serving[model_id]
            if best is None or self._has_passed(best) or best.name in self._unsettled or rank(best) < rank(serving):
                continue
            another = best.key != serving.key or len(versions) > 1
            later = self._later.get(best.name)
            if (another or best.manifest.warm_up) and (later is None or self.clock() >= later.at):
                due.append(best)
        return due

    def tried(self, model: Model, failure: ServingError | None) -> None:
        """Takes what the trial of a version came to."""
        later = self._later.pop(model.name, None)
        if failure is None:
            self._passed[model.name] = model.digest
        elif isinstance(failure, ModelLoadFailed):
            self._faults[model.name] = [model.digest, failure.message.removeprefix(f"{model.name}: ")]
        else:
            back_off_s = min(later.back_off_s * 2, LAST_BACK_OFF_S) if later else FIRST_BACK_OFF_S
            self._later[model.name] = _Later(failure.message, back_off_s, self.clock() + back_off_s)
        self._decide()

    def serving(self, model_id: str) -> Model | None:
        """The version that serves."""
        return self._serving.get(model_id)

    def forgive(self, name: str) -> None:
        """A version that failed is to be tried again."""
        self._faults.pop(name, None)
        self._later.pop(name, None)
        self._decide()

    def pin(self, model_id: str, pinned: bool) -> None:
        """Overrules what model.yaml says."""
        self._pins[model_id] = pinned

    def retired(self) -> list[Model]:
        """What does not serve any more because its files are gone; each is given once."""
        retired, self._retired = self._retired, []
        return retired

    def table(self) -> Table:
        models = {name: self._shown(model) for name, model in self._found.items() if model.version is not None}
        models |= {model_id: self._shown(model) for model_id, model in self._serving.items()}
        reasons = {
            name: reason
            for name, model in self._found.items()
            if model.key != self._serving[model.model_id].key and (reason := self._reason(model))
        }
        return Table(models, reasons)

    def kept(self) -> bytes:
        """What the next board has to know: all that cannot be read off the repository."""
        served = self._served | {model_id: model.key for model_id, model in self._serving.items()}
        return json.dumps(
            {"pins": self._pins, "passed": self._passed, "faults": self._faults, "served": served}, sort_keys=True
        ).encode()

    def _forget(self) -> None:
        for judged in (self._passed, self._faults, self._later):
            for name in judged.keys() - self._found.keys():
                del judged[name]
        for name in [n for n, (digest, _) in self._faults.items() if self._found[n].digest != digest]:
            del self._faults[name]
        for name in self._later.keys() & self._unsettled:
            del self._later[name]

    def _decide(self) -> None:
        versions = self._versions()
        before = self._serving
        self._serving = {model_id: self._choice(model_id, candidates) for model_id, candidates in versions.items()}
        self._served = {i: key for i, key in self._served.items() if i not in versions}
        on_disk = {model.key for model in (*self._found.values(), *self._serving.values())}
        self._retired += [model for model in before.values() if model.key not in on_disk]

    def _choice(self, model_id: str, versions: list[Model]) -> Model:
        best, current = self._best(versions), self._serving.get(model_id)
        if current is None:
            served = next((v for v in versions if v.key == self._served.get(model_id)), None)
            current = served or best or max(versions, key=rank)
        if best is None:
            # Files that were changed for the worse: what is in memory goes on.
            return current if current.name in self._found else max(versions, key=rank)
        if current.name not in self._found or current.problem or self._fault(current):
            return best
        return best if self._has_passed(best) and rank(best) >= rank(current) else current

    def _best(self, versions: list[Model]) -> Model | None:
        """The highest version that nothing speaks against."""
        fit = [version for version in versions if version.problem is None and self._fault(version) is None]
        return max(fit, key=rank, default=None)

    def _versions(self) -> dict[str, list[Model]]:
        groups: dict[str, list[Model]] = defaultdict(list)
        for model in self._found.values():
            groups[model.model_id].append(model)
        return groups

    def _has_passed(self, model: Model) -> bool:
        return self._passed.get(model.name) == model.digest

    def _fault(self, model: Model) -> str | None:
        digest, fault = self._faults.get(model.name, (None, None))
        return fault if digest == model.digest else None

    def _reason(self, model: Model) -> str | None:
        later = self._later.get(model.name)
        return model.problem or self._fault(model) or (f"not tried yet: {later.reason}" if later else None)

    def _shown(self, model: Model) -> Model:
        pinned = self._pins.get(model.model_id, model.manifest.pinned)
        return replace(model, pinned=pinned, problem=model.problem or self._fault(model))
