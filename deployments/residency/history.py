"""What a replica remembers of each model: its loads, its measured size, its last failure. Outlives its residence."""

from dataclasses import dataclass, field

from deployments.contract.errors import ServingError
from deployments.contract.status import Unload

FIRST_BACK_OFF_S = 5.0
LAST_BACK_OFF_S = 300.0
MOST_RECORDS = 4096


@dataclass
class Failure:
    """A failed load is answered from memory for a while, twice as long each time."""

    error: ServingError
    back_off_s: float
    until: float

    def again(self, now: float) -> ServingError:
        error = self.error.again()
        if error.retryable:
            error.retry_after_ms = max(1, int((self.until - now) * 1000))
        return error


@dataclass
class Record:
    """One model by name and digest."""

    name: str
    digest: str
    measured_bytes: int | None = None
    """After its last load, or at its largest since."""
    loads: int = 0
    load_s: float = 0.0
    load_seconds: float = 0.0
    evictions: int = 0
    last_unload: Unload | None = None
    last_use: float | None = None
    lease_s: float = 1.0
    """How long a request holds it: a moving average."""
    failure: Failure | None = None

    @property
    def usual_load_s(self) -> float:
        return self.load_seconds / self.loads if self.loads else 0.0

    def loaded(self, seconds: float, size: int) -> None:
        self.loads += 1
        self.load_s = seconds
        self.load_seconds += seconds
        self.measured_bytes = size
        self.failure = None

    def failed(self, error: ServingError, now: float) -> Failure:
        before = self.failure
        back_off_s = FIRST_BACK_OFF_S if before is None else min(before.back_off_s * 2, LAST_BACK_OFF_S)
        self.failure = Failure(error, back_off_s, now + back_off_s)
        return self.failure

    def leased(self, seconds: float) -> None:
        self.lease_s += 0.2 * (seconds - self.lease_s)


@dataclass
class LoadHistory:
    """By key. The oldest go where there are too many, so that new versions do not add up for ever."""

    _records: dict[str, Record] = field(default_factory=dict)

    def of(self, key: str) -> Record:
        record = self._records.get(key)
        if record is None:
            name, _, digest = key.rpartition("#")
            record = self._records[key] = Record(name, digest)
        return record

    def seen(self, key: str) -> Record:
        """Without remembering that it was asked for."""
        return self._records.get(key) or Record("", "")

    def forget_beyond(self, kept: set[str]) -> None:
        for key in [key for key in self._records if key not in kept][: max(0, len(self._records) - MOST_RECORDS)]:
            del self._records[key]

    def items(self) -> list[tuple[str, Record]]:
        return list(self._records.items())

    @property
    def bytes_per_s(self) -> float | None:
        """The pace of all loads so far."""
        seconds = sum(record.load_seconds for record in self._records.values())
        loaded = sum((record.measured_bytes or 0) * record.loads for record in self._records.values())
        return loaded / seconds if seconds and loaded else None
