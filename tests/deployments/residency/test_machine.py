"""In whatever order things happen: the accounts hold, a leased model stays, and a failure leaves no trace.

A hypothesis state machine over load, lease, release, evict, fail, cancel, swap, grow and pin. The long run, 10,000
steps, is `make test-residency`.
"""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from deployments.contract.errors import ModelLoadFailed, ServingError
from deployments.repository.manifest import Manifest
from deployments.repository.model import Model
from deployments.residency.ledger import MIB, Ledger, Limit, State
from deployments.residency.residency import Residency
from tests.deployments.residency.fakes import PlayedThreads
from tests.support.until import turns

BUDGET = 100
SIZES = (10, 25, 40, 55, 70, 120)
LONG = "RESIDENCY_LONG" in os.environ


@dataclass(eq=False)
class GrowingFake:
    """An engine that grows as far as it is granted."""

    model: Model
    resident_bytes: int
    runtime_info: tuple[str, ...] = ()
    closed: bool = False
    grant: Callable[[int], bool] | None = None

    def ask_before_growing(self, grant: Callable[[int], bool]) -> None:
        self.grant = grant

    def close(self) -> None:
        self.closed = True


@dataclass(eq=False)
class Caller:
    model: Model
    go: asyncio.Event = field(default_factory=asyncio.Event)
    engine: GrowingFake | None = None
    task: "asyncio.Task[None]" = field(init=False)


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.threads = PlayedThreads(hold_loads=True, hold_unloads=True)
        self.now = 0.0
        self.engines: list[GrowingFake] = []
        self.callers: list[Caller] = []
        self.versions = [0] * len(SIZES)
        self.surplus = 0

    @initialize()
    def begin(self) -> None:
        async def made() -> Residency[GrowingFake]:
            return Residency(Ledger(Limit(BUDGET * MIB)), self.build, clock=lambda: self.now, threads=self.threads)

        self.residency = self.loop.run_until_complete(made())
        self.ledger = self.residency.ledger

    def build(self, model: Model) -> GrowingFake:
        engine = GrowingFake(model, model.declared_bytes + self.surplus * MIB)
        self.engines.append(engine)
        return engine

    def model(self, number: int) -> Model:
        manifest = Manifest(memory_mb=SIZES[number])
        return Model(f"m{number}", None, Path("m"), str(self.versions[number]), "text_generation", manifest)

    def run_tasks(self) -> None:
        """Until every task waits for something that the machine has to do."""
        self.loop.run_until_complete(turns(40))

    @rule(number=st.integers(0, len(SIZES) - 1))
    def lease(self, number: int) -> None:
        caller = Caller(self.model(number))

        async def call() -> None:
            async with self.residency.lease(caller.model, 1000) as engine:
                caller.engine = engine
                await caller.go.wait()
            caller.engine = None

        caller.task = self.loop.create_task(call())
        self.callers.append(caller)
        self.run_tasks()

    @precondition(lambda self: self.callers)
    @rule(data=st.data(), cancel=st.booleans())
    def end(self, data: st.DataObject, cancel: bool) -> None:
        caller = data.draw(st.sampled_from(self.callers))
        caller.engine = None
        caller.task.cancel() if cancel else caller.go.set()
        self.run_tasks()

    @precondition(lambda self: self.threads.loads)
    @rule(data=st.data(), fails=st.booleans(), surplus=st.sampled_from([-5, 0, 0, 0, 30]))
    def finish_load(self, data: st.DataObject, fails: bool, surplus: int) -> None:
        """A load succeeds, perhaps with a model larger than declared, or fails."""
        item = data.draw(st.sampled_from(self.threads.loads))
        self.threads.loads.remove(item)
        self.surplus = surplus
        if fails:
            before = {key for key, entry in self.ledger.entries.items() if entry.state is State.LOADING}
            item.done.set_exception(ModelLoadFailed("no good"))
            self.run_tasks()
            after = {key for key, entry in self.ledger.entries.items() if entry.state is State.LOADING}
            assert before - after, "a failed load is still accounted for"
        else:
            item.finish()
            self.run_tasks()

    @precondition(lambda self: self.threads.unloads)
    @rule()
    def finish_unload(self) -> None:
        self.threads.unloads.pop(0).finish()
        self.run_tasks()

    @rule(number=st.integers(0, len(SIZES) - 1))
    def evict(self, number: int) -> None:
        self.loop.create_task(self.residency.unload(self.model(number)))
        self.run_tasks()

    @rule(number=st.integers(0, len(SIZES) - 1))
    def swap(self, number: int) -> None:
        """New files take the place of old ones; the old model stays in memory until it is evicted."""
        self.versions[number] += 1

    @rule(number=st.integers(0, len(SIZES) - 1), pinned=st.booleans())
    def pin(self, number: int, pinned: bool) -> None:
        async def pin() -> None:
            self.residency.apply_pin(self.model(number), pinned)

        self.loop.run_until_complete(pin())
        self.run_tasks()

    @rule(data=st.data(), more=st.integers(-10, 40))
    def grow(self, data: st.DataObject, more: int) -> None:
        """An engine in use grows, if it may, or shrinks."""
        used = [caller.engine for caller in self.callers if caller.engine]
        if used:
            engine = data.draw(st.sampled_from(used))
            size = max(MIB, engine.resident_bytes + more * MIB)
            assert engine.grant
            if engine.grant(size):
                engine.resident_bytes = size
        self.run_tasks()

    @rule(seconds=st.sampled_from([0.5, 1.0, 10.0, 400.0]))
    def wait(self, seconds: float) -> None:
        async def sweep() -> None:
            self.residency.sweep()
            self.residency.memory.grant_waiting()

        self.now += seconds
        self.loop.run_until_complete(sweep())
        self.run_tasks()

    @invariant()
    def accounts_hold(self) -> None:
        if not hasattr(self, "ledger"):
            return
        alive = [engine for engine in self.engines if not engine.closed]
        for engine in alive:
            entry = self.ledger.entries.get(engine.model.key)
            assert entry, "an engine without an account"
            assert entry.bytes >= engine.resident_bytes
        assert self.ledger.used_bytes >= sum(engine.resident_bytes for engine in alive)
        if not any(engine.resident_bytes > engine.model.declared_bytes for engine in alive):
            assert self.ledger.used_bytes <= BUDGET * MIB
        unloading = [e.bytes for e in self.ledger.entries.values() if e.state is State.UNLOADING]
        assert self.ledger.used_bytes <= BUDGET * MIB or unloading, "over the budget, and nothing is unloaded"

    @invariant()
    def a_leased_model_is_never_closed(self) -> None:
        for caller in self.callers:
            if caller.engine is not None and not caller.task.done():
                assert not caller.engine.closed
                assert self.ledger.entries[caller.model.key].leases

    @invariant()
    def callers_get_only_errors_of_the_contract(self) -> None:
        for caller in [caller for caller in self.callers if caller.task.done()]:
            self.callers.remove(caller)
            if not caller.task.cancelled() and (error := caller.task.exception()):
                assert isinstance(error, ServingError), error

    def teardown(self) -> None:
        """When all leases end, every waiting caller gets an answer and no lease is left."""
        for _ in range(200):
            for caller in self.callers:
                caller.engine = None
                caller.go.set()
            for held in (self.threads.loads, self.threads.unloads):
                while held:
                    held.pop().finish()
            self.now += 1
            if hasattr(self, "residency"):
                self.loop.call_soon(self.residency.memory.grant_waiting)
            self.run_tasks()
            if not any(not caller.task.done() for caller in self.callers):
                break
        try:
            assert all(caller.task.done() for caller in self.callers), "a caller waits for ever"
            self.callers_get_only_errors_of_the_contract()
            assert all(not entry.leases for entry in self.ledger.entries.values())
        finally:
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.run_tasks()
            self.loop.close()


TestResidency = Machine.TestCase
TestResidency.settings = settings(
    max_examples=250 if LONG else 20,  # somewhat less than 50 steps each
    stateful_step_count=50,
    deadline=None,
    phases=(Phase.generate,),  # shrinking takes longer than reading the steps
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
