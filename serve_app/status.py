"""What `GET /models` tells of each model: what lies on disk, and where it is in memory."""

from collections.abc import Iterable, Mapping

from pydantic import BaseModel

from deployments.repository import Model
from deployments.residency_status import ResidentStatus


class ModelStatus(BaseModel):
    """One model. `state` is available (on disk), loading, ready (in some replica's memory) or failed."""

    model_config = {"protected_namespaces": ()}

    model_id: str
    version: int | None
    versions: list[int]
    family: str | None
    state: str
    reason: str | None
    declared_bytes: int
    resident_bytes: list[int]
    """What it takes in each replica that holds it."""
    notes: list[str]
    """How it runs, as its engines tell."""


def model_statuses(models: Mapping[str, Model], residents: Iterable[ResidentStatus]) -> list[ModelStatus]:
    """One row a model id, sorted."""
    seen = list(residents)
    return [
        _status(model_id, model, models.values(), [r for r in seen if r.digest == model.digest])
        for model_id, model in sorted(models.items())
        if "@" not in model_id
    ]


def _status(model_id: str, model: Model, every: Iterable[Model], residents: list[ResidentStatus]) -> ModelStatus:
    states = {resident.state for resident in residents}
    state = next((state for state in ("ready", "loading", "failed") if state in states), "available")
    reasons = [resident.reason for resident in residents if resident.state == "failed"]
    return ModelStatus(
        model_id=model_id,
        version=model.version,
        versions=sorted({m.version for m in every if m.model_id == model_id and m.version is not None}),
        family=model.family,
        state="failed" if model.problem else state,
        reason=model.problem or (reasons[0] if state == "failed" else None),
        declared_bytes=model.declared_bytes,
        resident_bytes=[resident.bytes for resident in residents if resident.state == "ready"],
        notes=list(dict.fromkeys(note for resident in residents for note in resident.notes)),
    )
