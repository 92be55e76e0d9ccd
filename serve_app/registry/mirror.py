"""The ingress's copy of the registry's table. It stays usable while the registry actor restarts."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from ray import serve

from deployments.contract.errors import Unavailable
from deployments.contract.status import Suspect
from deployments.repository.model import Model, find
from deployments.repository.versions import Table

logger = logging.getLogger("model_runtime.ingress")

MODEL_REGISTRY = "model_registry"
"""The actor's name."""
RETRY_AFTER_S = 0.2
CHANGE_TIMEOUT_S = 5.0
FIRST_TABLE_TIMEOUT_S = 30.0
"""How long a request waits for the first table."""


class RegistryMirror:
    """The models that exist. `follow` has to run in a task."""

    def __init__(self) -> None:
        self.table = Table()
        self._generation: str | None = None
        self._known = asyncio.Event()
        self._changed = asyncio.Condition()

    @property
    def is_known(self) -> bool:
        return self._known.is_set()

    async def ready(self) -> None:
        """Returns once the first table has arrived. Raises Unavailable after FIRST_TABLE_TIMEOUT_S."""
        if self._known.is_set():
            return
        try:
            async with asyncio.timeout(FIRST_TABLE_TIMEOUT_S):
                await self._known.wait()
        except TimeoutError:
            raise Unavailable("the model repository has not been read yet") from None

    async def find_model(self, model_id: str, family: str) -> Model:
        """Raises ModelNotFound, WrongFamily, ModelLoadFailed, and what `ready` raises."""
        await self.ready()
        return find(self.table.models, model_id, family)

    def models(self) -> Mapping[str, Model]:
        """By name: `id` for the version that serves, and `id@version`."""
        return self.table.models

    async def died_alone(self, suspect: Suspect) -> bool:
        """Whether the input is refused from now on. False where the actor does not answer."""
        try:
            async with asyncio.timeout(CHANGE_TIMEOUT_S):
                refused: bool = await registry_actor().died_alone.remote(suspect)
        except Exception as failure:
            logger.warning("input %s was not counted: %s", suspect.digest, type(failure).__name__)
            return False
        return refused

    def answered_alone(self, digest: str) -> None:
        """Tells the actor; it need not arrive."""
        try:
            registry_actor().answered_alone.remote(digest)
        except Exception as failure:
            logger.warning("input %s was not cleared: %s", digest, type(failure).__name__)

    async def follow(self) -> None:
        """Receives each new table, for ever."""
        while True:
            try:
                await self._refresh()
            except Exception as failure:  # The actor restarts: the last table stays in use.
                logger.warning("the model registry did not answer: %s", type(failure).__name__)
                await asyncio.sleep(RETRY_AFTER_S)

    async def wait_for(self, condition: Callable[[Table], bool]) -> None:
        """Returns once the table meets `condition`, or after CHANGE_TIMEOUT_S."""
        try:
            async with asyncio.timeout(CHANGE_TIMEOUT_S), self._changed:
                await self._changed.wait_for(lambda: condition(self.table))
        except TimeoutError:
            logger.warning("a change of the model registry has not arrived after %.0f s", CHANGE_TIMEOUT_S)

    async def _refresh(self) -> None:
        """Waits for the next table; the actor answers None if there is none for a while."""
        if (update := await registry_actor().table.remote(self._generation)) is not None:
            self._generation, self.table = update
            self._known.set()
            async with self._changed:
                self._changed.notify_all()


def registry_actor() -> Any:
    """The current actor: a handle to an earlier one does not reach the one that Serve starts in its place."""
    return serve.get_deployment_actor(MODEL_REGISTRY)
