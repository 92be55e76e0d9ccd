"""The status of models and replicas: plain data, built elsewhere. Imports neither torch nor Ray."""

import enum
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True, slots=True)
class Unload:
    """The process's size around one unload."""

    bytes: int
    """The model's size in the ledger."""
    process_bytes_before: int
    process_bytes_after: int
    at: float
    """Wall clock, seconds."""


@dataclass(frozen=True, slots=True)
class ResidentStatus:
    """One model in one replica, from its first load on, also after its unload."""

    name: str
    digest: str
    state: str
    """available (unloaded), reserved (its load waits for memory), loading, ready, unloading or failed."""
    bytes: int = 0
    """Its size in the ledger: measured once it is loaded, before that declared or measured by an earlier load."""
    load_s: float = 0.0
    """Of the last load."""
    reason: str | None = None
    """Why the last load failed, in one line."""
    retryable: bool | None = None
    """Whether the next load may succeed though the folder stays as it is; None where the last one did not fail."""
    notes: tuple[str, ...] = ()
    """How it runs, as its engine reports."""
    pinned: bool = False
    leases: int = 0
    """Requests that use it now."""
    loads: int = 0
    evictions: int = 0
    last_use: float | None = None
    """Wall clock, seconds."""
    cpu_s: float = 0.0
    """CPU seconds that its requests used."""
    last_unload: Unload | None = None


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """The memory of a replica's process."""

    budget_bytes: int
    """For its models, above its resting size: `required_mem_mb`, or what it is by default now."""
    accounted_bytes: int
    """Its models in the ledger, with those that load or unload now. Never more than the budget."""
    resting_bytes: int
    """The process's size before its first model, libraries imported."""
    process_bytes: int
    """The process's size now."""
    overhead_bytes: int
    """process − resting − accounted: caches, requests under way, and loads while they run."""
    leaked_bytes: int
    """Growth of the overhead at rest since its minimum after an unload: memory that unloads did not give back."""


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """One replica: its models and its process."""

    replica: str
    """Its name in Serve, unique in the runtime."""
    process: ProcessStatus
    models: tuple[ResidentStatus, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What loading a model would take now, in one replica. Making it changes nothing."""

    replica: str
    name: str
    resident: bool
    fits: bool
    """Whether it is resident, or can be loaded at once."""
    needs_bytes: int
    measured: bool
    """Whether `needs_bytes` was measured by an earlier load, or is declared."""
    free_bytes: int
    evicts: tuple[str, ...] = ()
    """Models that would be evicted."""
    waits_for: tuple[str, ...] = ()
    """Models in use, whose leases would have to end first."""
    seconds: float | None = None
    """Duration of the load: by earlier loads of this model, else by the rate of all loads; None before any."""
    reason: str | None = None
    """Why it can never fit, if it cannot."""


@dataclass(frozen=True, slots=True)
class AnsweredRequest:
    """What became of one request, without what was asked and answered."""

    request_id: str
    arrived_at: float
    """Wall clock, seconds."""
    key: str
    """The name of the API key; empty without one."""
    family: str
    model: str
    outcome: str
    """`ok`, or the error's code."""
    reason: str | None
    """The error's message."""
    queue_s: float | None
    """Until it was sent to a replica; None if it never was."""
    total_s: float
    replica: str | None
    """The one it was sent to last, by its id in Serve, which is in the name of its log file; None where Serve chose."""
    repeated: bool
    """Whether it was sent again, because its replica was lost."""
    tokens: int
    """Read and generated."""
    load_s: float | None = None
    """In the replica, until its model was in memory."""
    preprocess_s: float | None = None
    """To decode its input, where that is done apart: a part of `compute_s`."""
    first_token_s: float | None = None
    """Of a text, until its first token: a part of `compute_s`."""
    compute_s: float | None = None
    """From having the model in memory to the answer; None where that failed."""
    batch_size: int | None = None
    """How many requests, or texts to embed, shared its forward; of several forwards the most."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """An input with which a replica died that computed nothing else."""

    digest: str
    """Of the input and of its model's content."""
    model: str
    """Its name; that of the family where that has no models."""
    family: str
    request_id: str
    """Of the last request that asked for it."""


@dataclass(frozen=True, slots=True)
class QuarantinedInput(Suspect):
    """An input that is refused."""

    deaths: int
    """Replicas that died with nothing else to compute."""
    since: float
    """Wall clock, seconds."""
    until: float
    """Wall clock, seconds."""


class Residence(BaseModel):
    """A model in one replica, from its first load on."""

    replica: str
    version: int | None
    state: str
    """available (unloaded), reserved (its load waits for memory), loading, ready, unloading or failed."""
    reason: str | None
    bytes: int
    """Measured, or declared before it is measured."""
    loads: int
    load_s: float
    evictions: int
    last_use: float | None
    """Wall clock, seconds."""
    leases: int
    cpu_s: float
    last_unload: Unload | None
    """The process's size before and after; memory that was not given back is in `process.leaked_bytes`."""
    process: ProcessStatus
    """Of the whole replica."""


class ModelStatus(BaseModel):
    """One model. `state` is available (on disk), loading, ready (in some replica's memory), unloading or failed."""

    model_config = ConfigDict(protected_namespaces=())

    model_id: str
    version: int | None
    """The version that serves."""
    versions: list[int]
    family: str | None
    state: str
    reason: str | None
    """Why it failed; for a model that serves, why another version does not."""
    pinned: bool
    context: int | None = None
    """How many tokens prompt and text may have together, where config.json has the number."""
    declared_bytes: int
    resident_bytes: list[int]
    """Its size in each replica that holds it."""
    loads: int
    evictions: int
    last_use: float | None
    """Wall clock, seconds."""
    replicas: list[Residence]
    notes: list[str]
    """How it runs, as its engines report."""
    retryable: bool | None = None
    """Of one that failed: whether trying again may help though its folder stays as it is."""
    refused: dict[str, str] = {}
    """Versions that were found and do not serve, by name, with the reason."""


class Verb(enum.StrEnum):
    """What an administrator can do with one model."""

    SHOW = "show"
    LOAD = "load"
    UNLOAD = "unload"
    PIN = "pin"
    UNPIN = "unpin"
    PLAN = "plan"


AdminResult = ModelStatus | list[Plan]
"""The model's status afterwards, or its plans."""
