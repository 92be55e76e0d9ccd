"""The actor that watches the repository: one for the whole runtime, it outlives the replicas."""

import asyncio
import logging
import time
import uuid
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path

from ray import serve
from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put

from deployments.contract.errors import ServingError, Unavailable
from deployments.contract.types import Error
from deployments.repository.families import ModelFormat
from deployments.repository.local import Repository
from deployments.repository.model import Model
from deployments.repository.staging import is_url
from deployments.repository.versions import ModelRegistry, Table
from serve_app.dispatch.broadcast import broadcast

logger = logging.getLogger("model_runtime.board")

SCAN_EVERY_S = 0.5
LIST_EVERY_S = 15.0
"""Of a remote repository."""
SCANNING_SHARE = 0.1
"""Of its time at most; a repository that takes longer to scan is scanned less often."""
ANSWER_WITHIN_S = 10.0
TRIAL_S = 600.0
GRACE_S = 2.0
"""For what was sent before the ingress heard of the change."""
_NAMESPACE = b"model-runtime"


class ModelRegistryActor:
    """`models`: a folder's path or a URL. `formats`: each family's ModelFormat, as JSON. `deployments`: their names by
    family."""

    def __init__(
        self,
        models: str,
        formats: Mapping[str, object],
        sources: Sequence[str],
        deployments: Mapping[str, str],
    ) -> None:
        remote = is_url(models)
        imported = {family: ModelFormat.model_validate(form) for family, form in formats.items()}
        self.repository = Repository(models if remote else Path(models), imported, sources=tuple(sources))
        self.scan_every_s = LIST_EVERY_S if remote else SCAN_EVERY_S
        self.deployments = deployments
        self.application = serve.get_deployment_actor_context().app_name
        self._kept = _internal_kv_get(self._place, namespace=_NAMESPACE)
        self.board = ModelRegistry(self._kept)
        self._name = uuid.uuid4().hex[:8]
        self._table = Table()
        self._number = 0
        self._changed = asyncio.Condition()
        self._scanned = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._being_tried: set[str] = set()

    async def table(self, known: str | None) -> tuple[str, Table] | None:
        """The table and its generation, as soon as it is another one than `known`; None if it is not for a while."""
        await self._watched()
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S), self._changed:
                await self._changed.wait_for(lambda: self._generation != known)
        except TimeoutError:
            return None
        return self._generation, self._table

    async def pin(self, model_id: str, pinned: bool) -> None:
        """Kept when this returns."""
        await self._watched()
        self.board.pin(model_id, pinned)
        await self._publish()

    async def forgive(self, name: str) -> None:
        """A version that failed its trial may serve again."""
        await self._watched()
        self.board.forgive(name)
        await self._publish()

    @property
    def _generation(self) -> str:
        return f"{self._name}-{self._number}"

    @property
    def _place(self) -> bytes:
        return f"model-board:{self.application}".encode()

    async def _watched(self) -> None:
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())
        await self._scanned.wait()

    async def _watch(self) -> None:
        while True:
            started = time.monotonic()
            try:
                self.board.observe(await asyncio.to_thread(self.repository.scan))
                await self._publish()
                self._scanned.set()
                self._act()
            except OSError as failure:  # a share that is away for a moment; the models are not gone
                logger.warning("the repository cannot be read: %s", failure)
            except Exception:  # Ray's store may be away for a moment; whatever it is, the watch goes on
                logger.exception("the repository could not be looked at")
            took_s = time.monotonic() - started
            await asyncio.sleep(max(self.scan_every_s, took_s / SCANNING_SHARE))

    async def _publish(self) -> None:
        if (kept := self.board.kept()) != self._kept:
            await asyncio.to_thread(_internal_kv_put, self._place, kept, namespace=_NAMESPACE)
            self._kept = kept
        if (table := self.board.table()) != self._table:
            async with self._changed:
                self._table = table
                self._number += 1
                self._changed.notify_all()

    def _act(self) -> None:
        for model in self.board.to_try():
            if model.family and model.family not in self._being_tried:
                self._being_tried.add(model.family)
                self._start(self._try(model, model.family))
        for model in self.board.retired():
            if model.family:
                self._start(self._retire(model, model.family))

    async def _try(self, model: Model, family: str) -> None:
        """On one replica of its family, beside what serves, and then on all that hold it. One at a time in a family."""
        try:
            handle = serve.get_deployment_handle(self.deployments[family], self.application)
            async with asyncio.timeout(TRIAL_S):
                error: Error | None = await handle.load_model.remote(model, TRIAL_S)
                if error is None and (serving := self.board.serving(model.model_id)) is not None:
                    # So that no replica that serves the old one has its callers wait for the new one.
                    await broadcast(handle, "load_beside", serving, model, TRIAL_S, timeout_s=TRIAL_S)
            failure: ServingError | None = error.exception() if error else None
        except Exception as cause:  # no replica, or one that was lost
            failure = Unavailable(f"the trial was cut short ({type(cause).__name__})")
        finally:
            self._being_tried.discard(family)
        logger.info("%s: %s", model.name, failure.message if failure else "tried")
        self.board.tried(model, failure)
        await self._publish()

    async def _retire(self, model: Model, family: str) -> None:
        """Requests under way end first, then it leaves memory."""
        await asyncio.sleep(GRACE_S)
        handle = serve.get_deployment_handle(self.deployments[family], self.application)
        await broadcast(handle, "unload_model", model, timeout_s=TRIAL_S)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
