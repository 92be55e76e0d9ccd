"""The ingress's copy of the board's table: it follows every change, and lasts while the board is made anew."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from ray import serve

from deployments.contract.errors import Unavailable
from deployments.repository.model import Model, find
from deployments.repository.versions import Table

logger = logging.getLogger("model_runtime.ingress")

MODEL_REGISTRY = "model_board"
AGAIN_AFTER_S = 0.2
SOON_S = 5.0
PATIENCE_S = 30.0
"""How long a request waits for the first table of all."""


class RegistryMirror:
    """Which models there are. `follow` has to run."""

    def __init__(self) -> None:
        self.table = Table()
        self._generation: str | None = None
        self._there = asyncio.Event()
        self._news = asyncio.Condition()

    @property
    def is_known(self) -> bool:
        return self._there.is_set()

    async def ready(self) -> None:
        """Returns once the table is there. Raises Unavailable where that takes long."""
        if self._there.is_set():
            return
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._there.wait()
        except TimeoutError:
            raise Unavailable("the model repository has not been read yet") from None

    def find(self, model_id: str, family: str) -> Model:
        """Raises ModelNotFound, WrongFamily, ModelLoadFailed."""
        return find(self.table.models, model_id, family)

    def models(self) -> Mapping[str, Model]:
        """Every model by the names it answers to."""
        return self.table.models

    async def follow(self) -> None:
        while True:
            try:
                await self._refresh()
            except Exception as failure:  # what is known stays true until there is another board
                logger.warning("the model board did not answer: %s", type(failure).__name__)
                await asyncio.sleep(AGAIN_AFTER_S)

    async def until(self, condition: Callable[[Table], bool]) -> None:
        """Returns once the table is as it should be, or after a while."""
        try:
            async with asyncio.timeout(SOON_S), self._news:
                await self._news.wait_for(lambda: condition(self.table))
        except TimeoutError:
            logger.warning("a change has not come in yet")

    async def _refresh(self) -> None:
        """Waits for the next table, and not for ever."""
        if (news := await board().table.remote(self._generation)) is not None:
            self._generation, self.table = news
            self._there.set()
            async with self._news:
                self._news.notify_all()


def board() -> Any:
    """The board as it is now: a handle to an earlier one stays with that one."""
    return serve.get_deployment_actor(MODEL_REGISTRY)
