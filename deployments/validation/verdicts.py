"""Facts about a folder's content, cached on disk: verdicts and results of probes. Does not know what they mean."""

import json
import logging
import threading
from contextlib import suppress

from pydantic import TypeAdapter, ValidationError

from deployments.system.artifact_cache import ArtifactCache

logger = logging.getLogger(__name__)

FACTS = TypeAdapter(dict[str, str])
_one_at_a_time = threading.Lock()


class FolderFacts:
    """Facts by name, in one entry of the cache. One that is lost or cannot be read is unknown. For any thread."""

    def __init__(self, cache: ArtifactCache, key: str) -> None:
        self.key = key
        self._cache = cache

    def recall(self, name: str) -> str | None:
        return self._all().get(name)

    def remember(self, name: str, fact: str) -> None:
        # Of two processes that write at once, one loses its fact and finds it again later.
        try:
            with _one_at_a_time:
                self._cache.write(self.key, json.dumps(self._all() | {name: fact}).encode())
        except OSError as failure:  # The disk is full, or read-only: it is found again by the next load.
            logger.warning("what was found out about a folder cannot be kept (%s)", failure.strerror)

    def _all(self) -> dict[str, str]:
        with suppress(ValidationError):
            return FACTS.validate_json(self._cache.read(self.key) or b"{}")
        return {}
