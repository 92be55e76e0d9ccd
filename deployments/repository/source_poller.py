"""The content of the sources that single models name, listed every 15 s. A store that hangs delays no other model."""

import logging
import math
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from deployments.contract.errors import Unavailable
from deployments.contract.generation import FolderDefaults
from deployments.repository.folder import CONFIG_BYTES, GENERATION, parse_generation
from deployments.repository.manifest import Unservable
from deployments.repository.staging import content_digest, listing, read_remote, weight_bytes

logger = logging.getLogger("model_runtime.sources")

POLL_EVERY_S = 15.0
"""More often shows changes sooner, for more requests to the store. With 15 s a changed source serves after 15.1 s
(`python -m benchmarks.residency changes`)."""
FIRST_LISTING_S = 10.0
"""A scan waits so long for a source that was never listed. A longer wait delays all other models; after a shorter one
the model appears without its content, and again with it. Not measured."""


@dataclass(frozen=True, slots=True)
class SourceContent:
    digest: str = ""
    """Changes when a file does; empty before the first listing."""
    weight_bytes: int = 0
    generation: FolderDefaults = field(default_factory=FolderDefaults)


@dataclass(slots=True)
class _Source:
    content: SourceContent | None = None
    listing: Future[SourceContent] | None = None
    """Under way."""
    listed_at: float = -math.inf


class SourcePoller:
    """The last known content of each source. To be called from one thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._pool = ThreadPoolExecutor(4, "sources")
        self._sources: dict[str, _Source] = {}

    def content(self, source: str) -> SourceContent:
        """Waits only where the source was never listed before."""
        known = self._sources.setdefault(source, _Source())
        if known.listing is None and self.clock() - known.listed_at >= POLL_EVERY_S:
            known.listing, known.listed_at = self._pool.submit(_list, source), self.clock()
        if known.listing is not None:
            try:
                known.content = known.listing.result(FIRST_LISTING_S if known.content is None else 0)
                known.listing = None
            except TimeoutError:  # It goes on and is taken by a later call.
                pass
            except (Unavailable, Unservable) as failure:  # A load of the model raises it to its caller.
                logger.info("a source was not listed: %s", failure)
                known.listing = None
        known.content = known.content or SourceContent()
        return known.content

    def forget_others(self, sources: Collection[str]) -> None:
        """Keeps only what is known of `sources`."""
        self._sources = {source: known for source, known in self._sources.items() if source in sources}


def _list(source: str) -> SourceContent:
    files = listing(source)
    if not files:
        return SourceContent(content_digest(files))
    text = read_remote(source, GENERATION, CONFIG_BYTES + 1) if GENERATION in files else b"{}"
    return SourceContent(content_digest(files), weight_bytes(source, files, {}), parse_generation(text))
