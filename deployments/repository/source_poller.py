"""The content of the sources that single models name, listed every 15 s. A store that hangs delays no other model."""

import logging
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from deployments.contract.errors import Unavailable
from deployments.repository.manifest import Unservable
from deployments.repository.staging import content_digest, listing, weights_of

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


class SourcePoller:
    """The last known content of each source. To be called from one thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._pool = ThreadPoolExecutor(4, "sources")
        self._contents: dict[str, SourceContent] = {}
        self._listings: dict[str, Future[SourceContent]] = {}
        self._listed_at: dict[str, float] = {}

    def content(self, source: str) -> SourceContent:
        """Waits only where the source was never listed before."""
        listing = self._listings.get(source)
        if listing is None and self.clock() - self._listed_at.get(source, -float("inf")) >= POLL_EVERY_S:
            listing = self._listings[source] = self._pool.submit(_list, source)
            self._listed_at[source] = self.clock()
        if listing is not None:
            self._take(source, listing)
        return self._contents[source]

    def forget_others(self, sources: Collection[str]) -> None:
        """Keeps only what is known of `sources`."""
        for source in self._contents.keys() - set(sources):
            for known in (self._contents, self._listed_at, self._listings):
                known.pop(source, None)

    def _take(self, source: str, listing: Future[SourceContent]) -> None:
        try:
            self._contents[source] = listing.result(0 if source in self._contents else FIRST_LISTING_S)
        except TimeoutError:  # It goes on and is taken by a later call.
            self._contents.setdefault(source, SourceContent())
            return
        except (Unavailable, Unservable) as failure:  # A load of the model raises it to its caller.
            logger.info("a source was not listed: %s", failure)
            self._contents.setdefault(source, SourceContent())
        del self._listings[source]


def _list(source: str) -> SourceContent:
    files = listing(source)
    return SourceContent(content_digest(files), sum(weights_of(files)))
