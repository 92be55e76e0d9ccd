"""Replicas that load and evict models in simulated time, behind the real ReplicaPool; nothing computes or waits."""

import heapq
import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

from ray.serve._private.common import DeploymentID
from ray.serve.request_router import ReplicaID

from deployments.replica.calls import Holdings
from deployments.residency.eviction import CostAware
from serve_app.dispatch.connections import SocketTransport
from serve_app.dispatch.replica_pool import ReplicaPool
from tests.serve_app.dispatch.handles import FakeHandle

LOAD_S = 1.0
SERVICE_S = 0.03
REPORT_TAKES_S = 0.002


class Simulation:
    """`callers` ask one after the other for models that `draw` gives. Every load is counted."""

    def __init__(
        self,
        replicas: int,
        room: int,
        callers: int,
        draw: Callable[[], str],
        target: float = 16,
        load_s: float = LOAD_S,
        service_s: float = SERVICE_S,
    ) -> None:
        self.now = 0.0
        self.loads: Counter[str] = Counter()
        self.answered = 0
        self.most_held = 0
        self.load_s, self.service_s = load_s, service_s
        self._draw = draw
        self._callers = callers
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._handle = FakeHandle()
        self.pool = ReplicaPool(self._handle.handle(), target, clock=lambda: self.now)
        self.replicas = [SimulatedReplica(self, f"r{number}", room) for number in range(replicas)]
        connections = SimpleNamespace(
            sockets={replica.name: replica.transport for replica in self.replicas},
            update=lambda _: None,
            unreachable=set(),
        )
        self.pool._connections = cast(Any, connections)

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + delay_s, next(self._order), action))

    def run(self, requests: int) -> None:
        self._left = requests
        for _ in range(self._callers):
            self.ask()
        expected = self.answered + requests
        while self.answered < expected:
            self.now, _, action = heapq.heappop(self._events)
            action()

    def ask(self) -> None:
        if self._left:
            self._left -= 1
            model = self._draw()
            transport = cast(SocketTransport, self.pool.pick(model))
            next(replica for replica in self.replicas if replica.transport is transport).take(model)


class SimulatedReplica:
    """Keeps `room` models of one size, loads them one by one, and evicts idle ones as a real one does."""

    def __init__(self, simulation: Simulation, name: str, room: int) -> None:
        self.name = name
        self.transport = SocketTransport(ReplicaID(name, DeploymentID("Text")), lambda _: "")
        self._simulation = simulation
        self._room = room
        self._policy = CostAware()
        self._ready: set[str] = set()
        self._loading: set[str] = set()
        self._waiting: defaultdict[str, list[str]] = defaultdict(list)  # calls by model
        self._in_use: Counter[str] = Counter()
        self._numbers = itertools.count()

    def take(self, model: str) -> None:
        call = f"{self.name}-{next(self._numbers)}"
        self.transport.pending[call] = cast(
            Any, SimpleNamespace(call=SimpleNamespace(model=SimpleNamespace(name=model)))
        )
        self._policy.record_use(model, self._simulation.now)
        if model in self._ready:
            self._serve(model, call)
        else:
            self._waiting[model].append(call)
            self._load()

    def _tell(self) -> None:
        models = frozenset(self._ready | self._loading)
        report = partial(self.transport.update_holdings, Holdings(models, round(1 - len(models) / self._room, 2)))
        self._simulation.after(REPORT_TAKES_S, report)

    def _load(self) -> None:
        """Starts what may be loaded now."""
        for model in [model for model, calls in self._waiting.items() if calls and model not in self._loading]:
            if len(self._ready) + len(self._loading) >= self._room:
                idle = [name for name in self._ready if not self._in_use[name]]
                if not idle:
                    return
                now = self._simulation.now
                self._ready.remove(
                    min(idle, key=lambda name: self._policy.eviction_score(name, 1, self._simulation.load_s, now))
                )
            self._loading.add(model)
            self._tell()
            self._simulation.loads[model] += 1
            self._simulation.most_held = max(self._simulation.most_held, len(self._ready) + len(self._loading))
            self._simulation.after(self._simulation.load_s, partial(self._loaded, model))

    def _loaded(self, model: str) -> None:
        self._loading.remove(model)
        self._ready.add(model)
        for call in self._waiting.pop(model, []):
            self._serve(model, call)
        self._load()

    def _serve(self, model: str, call: str) -> None:
        self._in_use[model] += 1
        self._simulation.after(self._simulation.service_s, lambda: self._answered(model, call))

    def _answered(self, model: str, call: str) -> None:
        self._in_use[model] -= 1
        del self.transport.pending[call]
        self._simulation.answered += 1
        self._load()
        self._simulation.ask()


def zipf(models: int, seed: int, exponent: float = 1.0) -> Callable[[], str]:
    """Draws names; the n-th is asked for 1/n as often as the first, the order being random."""
    dice = random.Random(seed)
    names = [f"m{number}" for number in range(models)]
    dice.shuffle(names)
    weights = [1 / (rank + 1) ** exponent for rank in range(models)]
    return lambda: dice.choices(names, weights)[0]
