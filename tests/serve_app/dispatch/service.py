"""A model's queue for tests of admission, whose time is a number that they move."""

from dataclasses import dataclass, field

from deployments.contract.settings import Autoscaling, FamilySettings
from deployments.contract.types import TextGeneration
from serve_app.access.caller import ANONYMOUS, Caller
from serve_app.dispatch.admission import Admission, ModelQueue, Slot

REQUEST = TextGeneration(model_id="m", prompt="", max_tokens=1)


@dataclass
class Service:
    """A model's queue, and what it let through in order."""

    slots: int = 4
    queued: int = 1000
    per_model: int = 1000
    replicas: int = 1
    most: int = 1
    now: float = 0.0
    sent: list[Slot] = field(default_factory=list)
    under_way: list[Slot] = field(default_factory=list)

    def __post_init__(self) -> None:
        limits = FamilySettings(
            max_ongoing_requests=self.slots,
            max_queued_requests=self.queued,
            max_queued_per_model=self.per_model,
            autoscaling=Autoscaling(max_replicas=self.most),
        )
        self.admission = Admission(limits, lambda: self.replicas, lambda: self.now)
        self.queue = self.admission.queue("m")

    def ask(self, caller: Caller = ANONYMOUS, remaining_s: float = 60, queue: ModelQueue | None = None) -> Slot:
        queue = queue or self.queue
        slot = Watched(queue, caller, remaining_s, self)
        queue.enter(slot)
        if not slot.waiting:
            slot.begin()
        return slot

    def finish(self, count: int = 1, after_s: float = 0.0) -> None:
        self.now += after_s
        for _ in range(count):
            self.queue.leave(self.under_way.pop(0))

    def waits(self) -> int:
        return self.queue.waiting


class Watched(Slot):
    """A slot whose service keeps when it began."""

    def __init__(self, queue: ModelQueue, caller: Caller, remaining_s: float, service: Service) -> None:
        super().__init__(queue, caller, remaining_s, REQUEST)
        self.service = service

    def begin(self) -> None:
        super().begin()
        self.service.sent.append(self)
        self.service.under_way.append(self)
