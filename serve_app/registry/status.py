"""Builds the statuses of models from the registry's table and the statuses of replicas. No Ray, no I/O."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

from deployments.contract.errors import ServingError
from deployments.contract.status import ModelStatus, ReplicaStatus, Residence, ResidentStatus
from deployments.repository.model import find
from deployments.repository.versions import Table

_STATES = {"ready": "ready", "reserved": "loading", "loading": "loading", "unloading": "unloading", "failed": "failed"}


def model_statuses(table: Table, replicas: Iterable[ReplicaStatus]) -> list[ModelStatus]:
    """One status for each model id, sorted."""
    residents = _by_model(replicas)
    names = sorted(name for name, model in table.models.items() if name == model.model_id)
    return [_status(name, table, residents) for name in names]


def model_status(name: str, table: Table, replicas: Iterable[ReplicaStatus]) -> ModelStatus:
    """The status of one name in the table: `id`, or `id@version`."""
    return _status(name, table, _by_model(replicas))


def preload_warnings(preload: Mapping[str, Sequence[str]], table: Table, statuses: Iterable[ModelStatus]) -> list[str]:
    """One line for each model that a family is to preload and cannot. `preload`: their names, by family."""
    failed = {status.model_id: status.reason for status in statuses if status.state == "failed"}
    warnings = []
    for family, names in preload.items():
        for name in names:
            try:
                model = find(table.models, name, family)
                why = failed.get(model.model_id)
                reason = f"{model.name}: {why}" if why else None
            except ServingError as failure:
                reason = failure.message
            if reason:
                warnings.append(f"families.{family}.preload: {reason}")
    return warnings


_Residents = Mapping[str, list[tuple[ReplicaStatus, ResidentStatus]]]
"""(replica, status) by model id."""


def _by_model(replicas: Iterable[ReplicaStatus]) -> _Residents:
    residents: dict[str, list[tuple[ReplicaStatus, ResidentStatus]]] = {}
    for replica in replicas:
        for status in replica.models:
            residents.setdefault(status.name.partition("@")[0], []).append((replica, status))
    return residents


def _status(name: str, table: Table, residents: _Residents) -> ModelStatus:
    model = table.models[name]
    # A model has the residences of all its versions, a version only its own.
    everywhere = residents.get(model.model_id, [])
    residences = [(replica, one) for replica, one in everywhere if name in (model.model_id, one.name)]
    serving = [status for _, status in residences if (status.name, status.digest) == (model.name, model.digest)]
    states = {_STATES.get(status.state) for status in serving}
    state = next((state for state in ("ready", "loading", "unloading", "failed") if state in states), "available")
    refused = {other: reason for other, reason in table.reasons.items() if other.partition("@")[0] == model.model_id}
    failed = [status for status in serving if status.state == "failed"]
    failures = [status.reason for status in failed]
    reasons = failures if state == "failed" else [f"{other}: {reason}" for other, reason in refused.items()]
    versions = {other.version for other in table.models.values() if other.model_id == model.model_id}
    return ModelStatus(
        model_id=name,
        version=model.version,
        versions=sorted(version for version in versions if version is not None),
        family=model.family,
        state="failed" if model.problem else state,
        reason=model.problem or next(iter(reasons), None),
        pinned=model.pinned,
        context=model.context,
        declared_bytes=model.declared_bytes,
        resident_bytes=[status.bytes for status in serving if status.state == "ready"],
        loads=sum(status.loads for status in serving),
        evictions=sum(status.evictions for status in serving),
        last_use=max((status.last_use for status in serving if status.last_use is not None), default=None),
        replicas=[_residence(replica, status) for replica, status in residences],
        notes=list(dict.fromkeys(note for status in serving for note in status.notes)),
        retryable=False if model.problem else failed[0].retryable if state == "failed" else None,
        refused=refused,
    )


def _residence(replica: ReplicaStatus, status: ResidentStatus) -> Residence:
    version = status.name.partition("@")[2]
    # The rest has the same names in both; what Residence does not have is left out.
    return Residence(
        replica=replica.replica, version=int(version) if version else None, process=replica.process, **asdict(status)
    )
