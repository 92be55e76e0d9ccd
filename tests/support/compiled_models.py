"""Image models that are compiled in the background: loads, caches, and the end of what they started."""

import threading
from pathlib import Path
from typing import Any

from deployments.engines.vision.engine import ImageClassificationEngine
from deployments.system.artifact_cache import ArtifactCache

COMPILE_S = 240.0


class Loads:
    """Loads engines; `settle` waits until nothing that they started is being compiled."""

    def __init__(self) -> None:
        self._settled: list[threading.Event] = []

    def __call__(self, folder: Path, **options: Any) -> ImageClassificationEngine:
        engine = ImageClassificationEngine.load(folder, **options)
        self._settled.append(engine.settled)
        return engine

    def settle(self) -> None:
        while self._settled:
            assert self._settled.pop().wait(COMPILE_S)


def new(folder: Path) -> ArtifactCache:
    return ArtifactCache(folder, 1 << 30)


def names(cache: ArtifactCache) -> set[str]:
    """Of its entries."""
    return {place.name for place in cache.root.iterdir() if not place.name.startswith(".")}
