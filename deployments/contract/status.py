"""What a replica tells of the models in its memory. Plain data: no torch, no Ray."""

import enum
from dataclasses import dataclass

from pydantic import BaseModel


@dataclass(frozen=True, slots=True)
class Unload:
    """The process's size around one unload."""

    bytes: int
    """What the model was accounted at."""
    process_bytes_before: int
    process_bytes_after: int
    at: float
    """Wall clock, seconds."""


@dataclass(frozen=True, slots=True)
class ResidentStatus:
    """One model in one replica, from its first load on: also once it has left."""

    name: str
    digest: str
    state: str
    """available (it has left), reserved (it waits for room), loading, ready, unloading or failed."""
    bytes: int = 0
    """What it is accounted at: as measured once it is loaded, before that as declared or as measured last time."""
    load_s: float = 0.0
    """Of the last load."""
    reason: str | None = None
    """Why the last load failed, in one line."""
    notes: tuple[str, ...] = ()
    """How it runs, as its engine tells."""
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
    """What a replica's process takes."""

    budget_bytes: int
    """`required_mem_mb`: what its models may take above its resting size."""
    accounted_bytes: int
    """What its models, and those on their way in or out, are accounted at. Never more than the budget."""
    resting_bytes: int
    """The process's size before its first model, libraries imported."""
    process_bytes: int
    """The process's size now."""
    overhead_bytes: int
    """process − resting − accounted: what caches, requests under way and loads for a moment take."""
    leaked_bytes: int
    """How much the overhead at rest has grown since it was least after an unload: what unloads did not give back."""


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """One replica: what it holds, and what its process takes."""

    replica: str
    """Serve's name of it, unique in the runtime."""
    process: ProcessStatus
    models: tuple[ResidentStatus, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What loading a model would take now, in one replica. Nothing is changed by asking."""

    replica: str
    name: str
    resident: bool
    fits: bool
    """Whether it is resident, or can be loaded at once."""
    needs_bytes: int
    measured: bool
    """Whether `needs_bytes` was measured by an earlier load, or is only declared."""
    free_bytes: int
    evicts: tuple[str, ...] = ()
    """Models that would go."""
    waits_for: tuple[str, ...] = ()
    """Models in use, whose leases would have to end first."""
    seconds: float | None = None
    """How long the load would take: by earlier loads of this model, else by the pace of all loads; None before any."""
    reason: str | None = None
    """Why it can never fit, if so."""


class Status(BaseModel):
    model_config = {"protected_namespaces": ()}


class Residence(Status):
    """A model in one replica, from its first load on."""

    replica: str
    version: int | None
    state: str
    """available (it has left), reserved (it waits for room), loading, ready, unloading or failed."""
    reason: str | None
    bytes: int
    """As measured; before that as declared."""
    loads: int
    load_s: float
    evictions: int
    last_use: float | None
    """Wall clock, seconds."""
    leases: int
    cpu_s: float
    last_unload: Unload | None
    """What the process took before and after; what did not come back for good is in `process.leaked_bytes`."""
    process: ProcessStatus
    """Of the whole replica."""


class ModelStatus(Status):
    """One model. `state` is available (on disk), loading, ready (in some replica's memory), unloading or failed."""

    model_id: str
    version: int | None
    """The one that serves."""
    versions: list[int]
    family: str | None
    state: str
    reason: str | None
    """Why it failed; of a model that serves, why another version of it does not."""
    pinned: bool
    declared_bytes: int
    resident_bytes: list[int]
    """What it takes in each replica that holds it."""
    loads: int
    evictions: int
    last_use: float | None
    """Wall clock, seconds."""
    replicas: list[Residence]
    notes: list[str]
    """How it runs, as its engines tell."""
    refused: dict[str, str] = {}
    """Versions that were found and do not serve, by name: why."""


class Verb(enum.StrEnum):
    """What can be done with one model."""

    SHOW = "show"
    LOAD = "load"
    UNLOAD = "unload"
    PIN = "pin"
    UNPIN = "unpin"
    PLAN = "plan"


AdminResult = ModelStatus | list[Plan]
"""What comes back: how the model stands afterwards, or its plans."""
