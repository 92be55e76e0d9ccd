"""Three ways to keep many models in little memory, each as a Serve deployment of one replica on the same engine."""

import asyncio
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ray import serve

from benchmarks.residency.eviction import LeastRecentlyUsed
from deployments.contract.chunk import Chunk
from deployments.contract.errors import ServingError
from deployments.contract.types import SamplingOptions
from deployments.engines.loading import build_in_turn
from deployments.engines.text.engine import TextGenerationEngine
from deployments.engines.text.request import Event
from deployments.repository.manifest import Manifest
from deployments.repository.model import Model
from deployments.residency.eviction import CostAware
from deployments.residency.ledger import MIB, Ledger, Limit
from deployments.residency.residency import Residency
from deployments.system.artifact_cache import ArtifactCache
from deployments.system.process_memory import ProcessMemory
from deployments.validation.verdicts import FolderFacts

DEADLINE_S = 60.0

Outcome = TypeVar("Outcome")


@dataclass
class Tally:
    """The counts of one contestant."""

    requests: int = 0
    loads: int = 0
    reload_s: float = 0.0
    """Of loads that were not a model's first."""
    most_bytes: int = 0
    """The highest value of the ledger's used bytes."""
    process_mb: float = 0.0
    """The most that the process grew above its resting size."""


class Loader:
    """Loads engines, and counts."""

    def __init__(self, root: Path) -> None:
        build_in_turn()
        self.root = root
        self.tally = Tally()
        self.seen: set[str] = set()
        self.failed = 0
        self.facts = ArtifactCache(Path(tempfile.mkdtemp(prefix="facts", dir=root)), MIB)
        self.converted = ArtifactCache(Path(tempfile.mkdtemp(prefix="converted", dir=root)), 1 << 30)
        self.resting = ProcessMemory().held()

    def load(self, name: str) -> TextGenerationEngine:
        started = time.perf_counter()
        try:
            facts = FolderFacts(self.facts, name)
            engine = TextGenerationEngine.load(self.root / name, cache=self.converted, facts=facts)
        except ServingError:
            self.failed += 1
            raise
        self.tally.loads += 1
        if name in self.seen:
            self.tally.reload_s += time.perf_counter() - started
        self.seen.add(name)
        return engine

    def measure_process(self) -> None:
        grown = (ProcessMemory().held() - self.resting) / 2**20
        self.tally.process_mb = max(self.tally.process_mb, grown)


async def answer(engine: TextGenerationEngine) -> None:
    """One token."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Event] = loop.create_future()

    def emit(event: Event) -> None:
        if not isinstance(event, Chunk):
            loop.call_soon_threadsafe(ended.set_result, event)

    await asyncio.to_thread(engine.submit, "stone river", 1, SamplingOptions(), emit)
    if isinstance(end := await ended, ServingError):
        raise end


class WatchedLedger(Ledger):
    """Records the highest value of its used bytes, after each step that can raise it."""

    most_bytes = 0

    def begin_load(self, name: str) -> bool:
        return self._seen(super().begin_load(name))

    def set_size(self, name: str, size: int) -> None:
        super().set_size(name, size)
        self._seen(None)

    def resize(self, name: str, size: int) -> bool:
        return self._seen(super().resize(name, size))

    def _seen(self, outcome: Outcome) -> Outcome:
        self.most_bytes = max(self.most_bytes, self.used_bytes)
        return outcome


def model_of(root: Path, name: str, size: int) -> Model:
    return Model(name, None, root / name, "", "text_generation", Manifest(memory_mb=size / 2**20))


class Shelf:
    """Our residency, with an eviction policy."""

    def __init__(self, root: Path, budget_bytes: int, policy: str) -> None:
        self.loader = Loader(root)
        policies = {"ours": CostAware, "lru": LeastRecentlyUsed}
        self.ledger = WatchedLedger(Limit(budget_bytes))
        self.residency: Residency[TextGenerationEngine] = Residency(
            self.ledger, lambda model: self.loader.load(model.model_id), policy=policies[policy]()
        )

    async def ask(self, name: str, size: int) -> None:
        model = model_of(self.loader.root, name, size)
        self.loader.tally.requests += 1
        async with self.residency.lease(model, DEADLINE_S) as engine:
            await answer(engine)
        self.loader.measure_process()

    async def tally(self) -> Tally:
        self.loader.tally.most_bytes = self.ledger.most_bytes
        return self.loader.tally


class Multiplexed:
    """`@serve.multiplexed`: a number of models, of which the least recently used one is evicted."""

    def __init__(self, root: Path, models: int) -> None:
        self.loader = Loader(root)

    @serve.multiplexed(max_num_models_per_replica=10)  # type: ignore[untyped-decorator]  # Serve leaves it so
    async def get(self, name: str) -> "Held":
        return Held(await asyncio.to_thread(self.loader.load, name))

    async def ask(self, name: str, size: int) -> None:
        self.loader.tally.requests += 1
        held = await self.get(name)
        await answer(held.engine)
        self.loader.measure_process()

    async def tally(self) -> Tally:
        return self.loader.tally


class Held:
    """Serve drops a model by calling its `__del__`."""

    def __init__(self, engine: TextGenerationEngine) -> None:
        self.engine = engine

    def __del__(self) -> None:
        self.engine.close()
