"""Decides which version of each model serves, and which models are pinned, for the whole runtime. Knows no Ray.

A version that is found beside the one that serves is a candidate. It is validated first, that is loaded and held to its
golden examples, and serves from then on. What a validation came to holds for a version's content (name and digest) and
is dropped when its files change.
"""

import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from deployments.contract.errors import ModelLoadFailed, ServingError
from deployments.repository.model import Model, rank

MIN_BACK_OFF_S = 2.0
MAX_BACK_OFF_S = 300.0
"""A validation that found no memory or no replica is repeated after 2, 4, 8 … 300 s. Each takes memory from the models
that serve, so the delay doubles. Not measured."""


@dataclass(frozen=True, slots=True)
class Table:
    """The models by the names they answer to."""

    models: dict[str, Model] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    """By the name of a version that was found and does not serve: why."""
    quarantined: dict[str, frozenset[str]] = field(default_factory=dict)
    """The digests of inputs that are refused, by the model's name."""


@dataclass
class _Deferred:
    """A validation that could not take place, by no fault of the model."""

    reason: str
    back_off_s: float
    until: float


class ModelRegistry:
    """`saved` is what `state` of an earlier registry returned."""

    def __init__(self, saved: bytes | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        state = json.loads(saved) if saved else {}
        self.clock = clock
        self._pins: dict[str, bool] = state.get("pins", {})
        self._passed: dict[str, str] = state.get("passed", {})  # By name: the digest that passed its validation.
        self._faults: dict[str, list[str]] = state.get("faults", {})  # By name: the digest that failed, and why.
        self._served: dict[str, str] = state.get("served", {})  # By model id: the key that an earlier registry served.
        self._found: dict[str, Model] = {}
        self._missing: set[str] = set()
        self._unsettled: set[str] = set()
        self._serving: dict[str, Model] = {}
        self._deferred: dict[str, _Deferred] = {}
        self._retired: list[Model] = []

    def observe(self, found: Sequence[Model]) -> None:
        """Take the result of a scan of the repository."""
        now = {model.name: model for model in found}
        # A folder that is missing in one scan only may be one that is just replaced by a rename.
        missing = self._found.keys() - now.keys()
        now |= {name: self._found[name] for name in missing - self._missing}
        self._missing = missing - self._missing
        # Files that changed since the last scan may still be in the middle of a copy.
        before = {name: model.digest for name, model in self._found.items()}
        self._unsettled = {name for name, model in now.items() if before.get(name) != model.digest}
        self._found = now
        self._drop_outdated_results()
        self._decide()

    def due_validations(self) -> list[Model]:
        """The candidates to validate now: of each model the best version, if it is not validated yet."""
        due = []
        for model_id, versions in self._versions().items():
            best, serving = self._best(versions), self._serving[model_id]
            if best is None or self._has_passed(best) or best.name in self._unsettled or rank(best) < rank(serving):
                continue
            has_alternative = best.key != serving.key or len(versions) > 1
            deferred = self._deferred.get(best.name)
            is_due = deferred is None or self.clock() >= deferred.until
            if is_due and (has_alternative or best.manifest.warm_up):
                due.append(best)
        return due

    def record_validation(self, model: Model, failure: ServingError | None) -> None:
        """ModelLoadFailed counts against the version, unless it may pass; after any other failure the validation is
        repeated later."""
        deferred = self._deferred.pop(model.name, None)
        if failure is None:
            self._passed[model.name] = model.digest
        elif isinstance(failure, ModelLoadFailed) and not failure.retryable:
            self._faults[model.name] = [model.digest, failure.message.removeprefix(f"{model.name}: ")]
        else:
            back_off_s = min(deferred.back_off_s * 2, MAX_BACK_OFF_S) if deferred else MIN_BACK_OFF_S
            self._deferred[model.name] = _Deferred(failure.message, back_off_s, self.clock() + back_off_s)
        self._decide()

    def retry_failed(self, name: str) -> None:
        """Validate a version again that failed."""
        self._faults.pop(name, None)
        self._deferred.pop(name, None)
        self._decide()

    def pin(self, model_id: str, pinned: bool) -> None:
        """Overrules model.yaml."""
        self._pins[model_id] = pinned

    def serving(self, model_id: str) -> Model | None:
        """The version that serves."""
        return self._serving.get(model_id)

    def take_retired(self) -> list[Model]:
        """The versions that no longer serve because their files are gone; each is returned once."""
        retired, self._retired = self._retired, []
        return retired

    def table(self) -> Table:
        models = {name: self._as_served(model) for name, model in self._found.items() if model.version is not None}
        models |= {model_id: self._as_served(model) for model_id, model in self._serving.items()}
        reasons = {
            name: reason
            for name, model in self._found.items()
            if model.key != self._serving[model.model_id].key and (reason := self._reason(model))
        }
        return Table(models, reasons)

    def state(self) -> bytes:
        """What the next registry has to know and cannot read from the repository."""
        served = self._served | {model_id: model.key for model_id, model in self._serving.items()}
        return json.dumps(
            {"pins": self._pins, "passed": self._passed, "faults": self._faults, "served": served}, sort_keys=True
        ).encode()

    def _drop_outdated_results(self) -> None:
        """Of versions that are gone; a validation that could not take place is due again once the files are others."""
        for results in (self._passed, self._faults, self._deferred):
            for name in results.keys() - self._found.keys():
                del results[name]
        for name in self._deferred.keys() & self._unsettled:
            del self._deferred[name]

    def _decide(self) -> None:
        """Which version of each model serves from now on."""
        versions = self._versions()
        before = self._serving
        self._serving = {model_id: self._choice(model_id, candidates) for model_id, candidates in versions.items()}
        self._served = {model_id: key for model_id, key in self._served.items() if model_id not in versions}
        on_disk = {model.key for model in (*self._found.values(), *self._serving.values())}
        self._retired += [model for model in before.values() if model.key not in on_disk]

    def _choice(self, model_id: str, versions: list[Model]) -> Model:
        best, current = self._best(versions), self._serving.get(model_id)
        if current is None:  # The first decision: what an earlier registry served, else the best, validated or not.
            served = next((version for version in versions if version.key == self._served.get(model_id)), None)
            current = served or best or max(versions, key=rank)
        if best is None:  # Files were changed to broken ones: the content that is in memory goes on serving.
            return current if current.name in self._found else max(versions, key=rank)
        if current.name not in self._found or current.problem or self._fault(current):
            return best
        return best if self._has_passed(best) and rank(best) >= rank(current) else current

    def _best(self, versions: list[Model]) -> Model | None:
        """The highest version without a known problem."""
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
        deferred = self._deferred.get(model.name)
        return model.problem or self._fault(model) or (f"not tried yet: {deferred.reason}" if deferred else None)

    def _as_served(self, model: Model) -> Model:
        pinned = self._pins.get(model.model_id, model.manifest.pinned)
        return replace(model, pinned=pinned, problem=model.problem or self._fault(model))
