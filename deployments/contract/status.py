"""What a replica tells of the models in its memory. Plain data: no torch, no Ray."""

from dataclasses import dataclass


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
