"""What `GET /models` tells of each model: what lies on disk, what of it serves, and where it is in memory."""

from collections.abc import Iterable, Mapping

from deployments.contract.status import ModelStatus, ReplicaStatus, Residence, ResidentStatus
from deployments.repository.model import Model
from deployments.repository.versions import Table

_STATES = {"ready": "ready", "reserved": "loading", "loading": "loading", "unloading": "unloading", "failed": "failed"}


def model_statuses(table: Table, replicas: Iterable[ReplicaStatus]) -> list[ModelStatus]:
    """One row a model id, sorted."""
    seen = _by_model(replicas)
    names = sorted(name for name, model in table.models.items() if name == model.model_id)
    return [_status(name, table, seen) for name in names]


def model_status(name: str, table: Table, replicas: Iterable[ReplicaStatus]) -> ModelStatus:
    """The row of one name in the table, which may be that of a version."""
    return _status(name, table, _by_model(replicas))


_Seen = Mapping[str, list[tuple[ReplicaStatus, ResidentStatus]]]
"""(replica, status) by model id."""


def _by_model(replicas: Iterable[ReplicaStatus]) -> _Seen:
    seen: dict[str, list[tuple[ReplicaStatus, ResidentStatus]]] = {}
    for replica in replicas:
        for status in replica.models:
            seen.setdefault(status.name.partition("@")[0], []).append((replica, status))
    return seen


def _status(name: str, table: Table, seen: _Seen) -> ModelStatus:
    model = table.models[name]
    here = [(replica, status) for replica, status in seen.get(model.model_id, []) if _belongs(status, name, model)]
    serving = [status for _, status in here if (status.name, status.digest) == (model.name, model.digest)]
    states = {_STATES.get(status.state) for status in serving}
    state = next((state for state in ("ready", "loading", "unloading", "failed") if state in states), "available")
    refused = {other: reason for other, reason in table.reasons.items() if other.partition("@")[0] == model.model_id}
    failures = [status.reason for status in serving if status.state == "failed"]
    elsewhere = [f"{other}: {reason}" for other, reason in refused.items()]
    uses = [status.last_use for status in serving if status.last_use is not None]
    return ModelStatus(
        model_id=name,
        version=model.version,
        versions=_versions(model, table),
        family=model.family,
        state="failed" if model.problem else state,
        reason=model.problem or next(iter(failures if state == "failed" else elsewhere), None),
        pinned=model.pinned,
        declared_bytes=model.declared_bytes,
        resident_bytes=[status.bytes for status in serving if status.state == "ready"],
        loads=sum(status.loads for status in serving),
        evictions=sum(status.evictions for status in serving),
        last_use=max(uses, default=None),
        replicas=[_residence(replica, status) for replica, status in here],
        notes=list(dict.fromkeys(note for status in serving for note in status.notes)),
        refused=refused,
    )


def _belongs(status: ResidentStatus, name: str, model: Model) -> bool:
    """To a model belong all its versions in memory; to a version its own."""
    return name == model.model_id or status.name == name


def _versions(model: Model, table: Table) -> list[int]:
    versions = (other.version for other in table.models.values() if other.model_id == model.model_id)
    return sorted({version for version in versions if version is not None})


def _residence(replica: ReplicaStatus, status: ResidentStatus) -> Residence:
    version = status.name.partition("@")[2]
    return Residence(
        replica=replica.replica,
        version=int(version) if version else None,
        state=status.state,
        reason=status.reason,
        bytes=status.bytes,
        loads=status.loads,
        load_s=status.load_s,
        evictions=status.evictions,
        last_use=status.last_use,
        leases=status.leases,
        cpu_s=status.cpu_s,
        last_unload=status.last_unload,
        process=replica.process,
    )
