"""What loading a model would take, from measured figures."""

from deployments.contract.errors import OutOfMemory
from deployments.contract.status import Plan
from deployments.repository.model import Model
from deployments.residency.memory import EngineT, MemoryManager


def plan(room: MemoryManager[EngineT], key: str, size: int, replica: str) -> Plan:
    """Changes nothing."""
    ledger, now = room.ledger, room.clock()
    record, resident = room.records.seen(key), key in room.residents
    pace = room.records.bytes_per_s
    seconds = 0.0 if resident else record.usual_load_s or (size / pace if pace else None)
    failure = record.failure if record.failure and now < record.failure.until else None
    evicts: list[str] | None = []
    waits_for: frozenset[str] = frozenset()
    reason = failure.error.message if failure else None
    try:
        if not resident:
            evicts = ledger.room_for(size, now, room.worth)
    except OutOfMemory as never:
        evicts, reason = None, never.message
    else:
        if evicts is None:
            waits_for = ledger.claim(size, room.worth).names
    return Plan(
        replica=replica,
        name=name_of(key),
        resident=resident,
        fits=evicts is not None and failure is None,
        needs_bytes=size,
        measured=record.measured_bytes is not None,
        free_bytes=ledger.free_bytes,
        evicts=tuple(name_of(victim) for victim in evicts or ()),
        waits_for=tuple(sorted(name_of(held) for held in waits_for)),
        seconds=seconds,
        reason=reason,
    )


def key_of(model: Model) -> str:
    """Changed files make another resident: the old one is left to eviction."""
    return f"{model.name}#{model.digest}"


def name_of(key: str) -> str:
    return key.rpartition("#")[0]
