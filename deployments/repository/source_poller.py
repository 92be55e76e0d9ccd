"""What lies at the sources that single models name, looked at now and then. A store that hangs holds up nobody."""

import hashlib
import logging
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from deployments.contract.errors import Unavailable
from deployments.repository.manifest import Unservable
from deployments.repository.staging import listing

logger = logging.getLogger("model_runtime.sources")

LOOK_EVERY_S = 15.0
FIRST_LOOK_S = 10.0
"""A source that takes longer the first time is taken as it is, and as a change once it is known."""


@dataclass(frozen=True, slots=True)
class Sight:
    """`mark` changes when a file does; empty where nothing was seen yet."""

    mark: str = ""
    weight_bytes: int = 0


class SourcePoller:
    """The last sight of each source. For one thread, which waits for a source's first sight only."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._pool = ThreadPoolExecutor(4, "sources")
        self._sights: dict[str, Sight] = {}
        self._looks: dict[str, Future[Sight]] = {}
        self._looked_at: dict[str, float] = {}

    def see(self, source: str) -> Sight:
        look = self._looks.get(source)
        if look is None and self.clock() - self._looked_at.get(source, -float("inf")) >= LOOK_EVERY_S:
            look = self._looks[source] = self._pool.submit(_look, source)
            self._looked_at[source] = self.clock()
        if look is not None:
            try:
                self._sights[source] = look.result(0 if source in self._sights else FIRST_LOOK_S)
                del self._looks[source]
            except TimeoutError:
                self._sights.setdefault(source, Sight())
            except (Unavailable, Unservable) as failure:  # it is told to whoever loads the model
                logger.info("a source was not seen: %s", failure)
                self._sights.setdefault(source, Sight())
                del self._looks[source]
        return self._sights[source]

    def forget_beyond(self, sources: Collection[str]) -> None:
        for source in self._sights.keys() - set(sources):
            for known in (self._sights, self._looked_at, self._looks):
                known.pop(source, None)


def _look(source: str) -> Sight:
    files = listing(source)
    weights = (file.size for name, file in files.items() if name.endswith(".safetensors") and "/" not in name)
    return Sight(hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()[:16], sum(weights))
