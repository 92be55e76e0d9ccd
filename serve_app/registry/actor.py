"""The actor that owns the model registry: it scans the repository, validates new versions and publishes the table.

One for the whole runtime. Knows replicas only through their deployments' handles.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ray import serve
from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put

from deployments.contract.errors import ServingError, Unavailable
from deployments.contract.settings import is_url, location
from deployments.contract.status import QuarantinedInput, Suspect
from deployments.contract.types import Error
from deployments.repository.families import ModelFormat
from deployments.repository.local import Repository
from deployments.repository.model import Model
from deployments.repository.versions import ModelRegistry, Table
from serve_app.dispatch.broadcast import broadcast
from serve_app.registry.quarantine import Quarantine

logger = logging.getLogger("model_runtime.registry")

SCAN_EVERY_S = 0.5
LIST_EVERY_S = 15.0
"""Of a remote repository."""
MAX_SCAN_SHARE = 0.1
"""The part of time spent on scans at most: a repository whose scan takes longer is scanned less often."""
POLL_TIMEOUT_S = 10.0
"""How long `table` waits for a change."""
VALIDATION_TIMEOUT_S = 600.0
UNLOAD_GRACE_S = 2.0
"""For requests that an ingress has sent before it received the new table."""
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
        link_targets: Sequence[str] = (),
        quarantine_s: float = 0.0,
    ) -> None:
        imported = {family: ModelFormat.model_validate(form) for family, form in formats.items()}
        self.repository = Repository(location(models), imported, sources=sources, link_targets=map(Path, link_targets))
        self.scan_every_s = LIST_EVERY_S if is_url(models) else SCAN_EVERY_S
        self.deployments = deployments
        self.application = serve.get_deployment_actor_context().app_name
        self._storage_key = f"model-registry:{self.application}".encode()
        self._persisted = _internal_kv_get(self._storage_key, namespace=_NAMESPACE)
        self.registry = ModelRegistry(self._persisted)
        self._quarantine_key = f"quarantine:{self.application}".encode()
        self._persisted_quarantine = _internal_kv_get(self._quarantine_key, namespace=_NAMESPACE)
        self.quarantine = Quarantine(quarantine_s, self._persisted_quarantine)
        self._table = Table()
        self._generation = uuid.uuid4().hex
        self._changed = asyncio.Condition()
        self._scanned = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._validating: set[str] = set()
        self.unread = 0
        """Scans that the repository could not be read for."""

    async def table(self, known: str | None) -> tuple[str, Table] | None:
        """The table and its generation, once that is not `known`. None if it has not changed within POLL_TIMEOUT_S."""
        await self._ready()
        try:
            async with asyncio.timeout(POLL_TIMEOUT_S), self._changed:
                await self._changed.wait_for(lambda: self._generation != known)
        except TimeoutError:
            return None
        return self._generation, self._table

    async def pin(self, model_id: str, pinned: bool) -> None:
        """The pin is persisted when this returns."""
        await self._ready()
        self.registry.pin(model_id, pinned)
        await self._publish()

    async def retry_failed(self, name: str) -> None:
        """A version that failed validation is validated again."""
        await self._ready()
        self.registry.retry_failed(name)
        await self._publish()

    async def died_alone(self, suspect: Suspect) -> bool:
        """Whether the input is refused from now on; that is persisted when this returns."""
        refused = self.quarantine.died_alone(suspect)
        logger.warning("input %s of %s ended a replica, alone; refused: %s", suspect.digest, suspect.model, refused)
        await self._publish()
        return refused

    async def answered_alone(self, digest: str) -> None:
        self.quarantine.answered_alone(digest)
        await self._publish()

    async def quarantined(self) -> list[QuarantinedInput]:
        return self.quarantine.inputs()

    async def lift(self, digest: str) -> QuarantinedInput | None:
        """The input, which is no more refused; None where it was not."""
        lifted = self.quarantine.lift(digest)
        await self._publish()
        return lifted

    async def _ready(self) -> None:
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())
        await self._scanned.wait()

    async def _watch(self) -> None:
        while True:
            started = time.monotonic()
            try:
                self.registry.observe(await asyncio.to_thread(self.repository.scan))
                await self._publish()
                self._scanned.set()
                self._start_actions()
            except OSError as failure:  # A network share may be unreachable for a moment. The models stay.
                self.unread += 1
                logger.warning("the repository cannot be read: %s", failure)
            except Exception:  # Ray's store may be unreachable for a moment. Scanning continues after any failure.
                logger.exception("the repository could not be scanned")
            took_s = time.monotonic() - started
            await asyncio.sleep(max(self.scan_every_s, took_s / MAX_SCAN_SHARE))

    async def _publish(self) -> None:
        if (persisted := self.registry.state()) != self._persisted:
            await asyncio.to_thread(_internal_kv_put, self._storage_key, persisted, namespace=_NAMESPACE)
            self._persisted = persisted
        if (persisted := self.quarantine.state()) != self._persisted_quarantine:
            await asyncio.to_thread(_internal_kv_put, self._quarantine_key, persisted, namespace=_NAMESPACE)
            self._persisted_quarantine = persisted
        if (table := replace(self.registry.table(), quarantined=self.quarantine.digests())) != self._table:
            async with self._changed:
                self._table = table
                self._generation = uuid.uuid4().hex
                self._changed.notify_all()

    def _start_actions(self) -> None:
        for model in self.registry.due_validations():
            if model.family and model.family not in self._validating:
                self._validating.add(model.family)
                self._start(self._validate(model, model.family))
        for model in self.registry.take_retired():
            if model.family:
                self._start(self._retire(model, model.family))

    async def _validate(self, model: Model, family: str) -> None:
        """Loads the version into one replica of its family, then into all that hold the version that serves.

        One at a time in a family, so that at most one version more than those that serve takes memory.
        """
        try:
            handle = serve.get_deployment_handle(self.deployments[family], self.application)
            async with asyncio.timeout(VALIDATION_TIMEOUT_S):
                error: Error | None = await handle.load_model.remote(model, VALIDATION_TIMEOUT_S)
                if error is None and (serving := self.registry.serving(model.model_id)) is not None:
                    # Callers of replicas that hold the old version need not wait for the new one.
                    limit_s = VALIDATION_TIMEOUT_S
                    await broadcast(handle, "load_beside", serving, model, limit_s, timeout_s=limit_s)
            failure: ServingError | None = error.exception() if error else None
        except Exception as cause:  # no replica, or one that was lost
            failure = Unavailable(f"the validation was interrupted ({type(cause).__name__})")
        finally:
            self._validating.discard(family)
        logger.info("%s: %s", model.name, failure.message if failure else "validated")
        self.registry.record_validation(model, failure)
        await self._publish()

    async def _retire(self, model: Model, family: str) -> None:
        """Unloads the version after the requests that use it."""
        await asyncio.sleep(UNLOAD_GRACE_S)
        handle = serve.get_deployment_handle(self.deployments[family], self.application)
        await broadcast(handle, "unload_model", model, timeout_s=VALIDATION_TIMEOUT_S)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
