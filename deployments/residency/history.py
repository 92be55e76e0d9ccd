"""What a replica remembers of each model, in memory or not: its loads, its measured size, its last failure."""

from collections.abc import Callable
from dataclasses import dataclass

from deployments.contract.errors import ServingError
from deployments.contract.status import Unload
from deployments.repository.model import Model

MIN_BACK_OFF_S = 5.0
MAX_BACK_OFF_S = 300.0
"""A failed load is tried again after 5, 10, 20 … 300 s. Longer back-offs spare the models in memory, shorter ones serve
a repaired model sooner. Measured with `python -m benchmarks.residency failing`: with these, 200 callers of a failing
model did not change the p99 of a model in memory."""
MAX_RECORDS = 4096
"""Not measured: it bounds memory where new versions arrive without end."""
LEASE_WEIGHT = 0.2
"""Of the newest lease in the moving average. Not measured."""


@dataclass
class Failure:
    """A failed load, which answers requests until `until`."""

    error: ServingError
    back_off_s: float
    until: float

    def error_at(self, now: float) -> ServingError:
        error = self.error.again()
        if error.retryable:
            error.retry_after_ms = max(1, int((self.until - now) * 1000))
        return error


@dataclass
class LoadRecord:
    """One version of one model with one content."""

    name: str
    digest: str
    measured_bytes: int | None = None
    """Its largest size since its last load began."""
    loads: int = 0
    load_s: float = 0.0
    """Of the last load."""
    load_seconds: float = 0.0
    """Of all loads."""
    evictions: int = 0
    last_unload: Unload | None = None
    last_use: float | None = None
    lease_s: float = 1.0
    """How long a request holds the model: a moving average."""
    failure: Failure | None = None

    @property
    def mean_load_s(self) -> float:
        return self.load_seconds / self.loads if self.loads else 0.0

    def add_load(self, seconds: float, size: int) -> None:
        self.loads += 1
        self.load_s = seconds
        self.load_seconds += seconds
        self.measured_bytes = size
        self.failure = None

    def add_failure(self, error: ServingError, now: float) -> Failure:
        before = self.failure
        back_off_s = MIN_BACK_OFF_S if before is None else min(before.back_off_s * 2, MAX_BACK_OFF_S)
        self.failure = Failure(error, back_off_s, now + back_off_s)
        return self.failure

    def add_lease(self, seconds: float) -> None:
        self.lease_s += LEASE_WEIGHT * (seconds - self.lease_s)

    def failure_at(self, now: float) -> Failure | None:
        """The failure that answers requests now."""
        return self.failure if self.failure is not None and now < self.failure.until else None


class LoadHistory(dict[str, LoadRecord]):
    """Records by `Model.key`; one that is looked up is kept from then on. Beyond MAX_RECORDS the oldest are dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.outgrown: Callable[[str], int | None] = lambda key: None
        """The size that a model counts as since the kernel killed a replica with it; None where it has killed none."""

    def __missing__(self, key: str) -> LoadRecord:
        name, _, digest = key.rpartition("#")
        record = self[key] = LoadRecord(name, digest)
        return record

    def peek(self, key: str) -> LoadRecord:
        """The record, or an empty one that is not kept."""
        return self.get(key) or LoadRecord("", "")

    def size_of(self, model: Model) -> int:
        """Bytes that a load will need: as measured by an earlier one, else as declared."""
        measured = self.peek(model.key).measured_bytes
        return model.declared_bytes if measured is None else measured

    def learn(self, model: Model) -> None:
        """Before a load: how other replicas have fared with it."""
        if (size := self.outgrown(model.key)) and size > self.size_of(model):
            self[model.key].measured_bytes = size

    def prune(self, keep: set[str]) -> None:
        excess = max(0, len(self) - MAX_RECORDS)
        for key in [key for key in self if key not in keep][:excess]:
            del self[key]

    @property
    def bytes_per_s(self) -> float | None:
        """The mean speed of all loads so far; None before the first."""
        seconds = sum(record.load_seconds for record in self.values())
        loaded = sum((record.measured_bytes or 0) * record.loads for record in self.values())
        return loaded / seconds if seconds and loaded else None
