"""An operator's requests: show, load, unload, pin and plan a model. Decides nothing: replicas and registry do."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from ray.serve.handle import DeploymentHandle

from deployments.contract.errors import ModelLoadFailed, NotFound, quoted
from deployments.contract.status import AdminResult, ModelStatus, Plan, QuarantinedInput, ReplicaStatus, Verb
from deployments.contract.types import Error
from deployments.repository.model import Model, find
from serve_app.dispatch.broadcast import broadcast
from serve_app.registry.mirror import RegistryMirror, registry_actor
from serve_app.registry.status import model_status, model_statuses, preload_warnings

LOAD_TIMEOUT_S = 600.0
UNLOAD_TIMEOUT_S = 60.0


class RegistryAdmin:
    """`handles`: of the families that have models. `preload`: the names of models that they are to preload."""

    def __init__(
        self,
        mirror: RegistryMirror,
        handles: Mapping[str, DeploymentHandle[Any]],
        preload: Mapping[str, Sequence[str]],
    ) -> None:
        self.mirror = mirror
        self.handles = handles
        self.preload = preload

    async def models(self) -> list[ModelStatus]:
        """Every model of the repository, and where it is in memory."""
        await self.mirror.ready()
        replicas = await self._replicas(list(self.handles))
        return model_statuses(self.mirror.table, replicas)

    async def warnings(self) -> list[str]:
        """What the configuration asks for and is not so, one line each."""
        statuses = await self.models() if any(self.preload.values()) else []
        return preload_warnings(self.preload, self.mirror.table, statuses)

    async def take_over(self) -> None:
        """Where this ingress knows other contents of the models in use, as after a change of the repository, replicas
        load them beside those. Before it takes requests, which would wait for it."""
        await self.mirror.ready()
        for handle in self.handles.values():
            used = {model.key: model for models in await broadcast(handle, "in_use") for model in models}
            for old in used.values():
                new = self.mirror.models().get(old.name)
                if new is not None and new.key != old.key and new.family == old.family and new.problem is None:
                    arguments = (old, new, LOAD_TIMEOUT_S)
                    await broadcast(handle, "load_beside", *arguments, timeout_s=LOAD_TIMEOUT_S)

    async def do(self, verb: Verb, name: str) -> AdminResult:
        """The model's status afterwards, or its plans. Raises ServingError."""
        if verb in (Verb.PIN, Verb.UNPIN):
            return await self.pin(name, verb is Verb.PIN)
        verbs: dict[Verb, Callable[[str], Awaitable[AdminResult]]] = {
            Verb.SHOW: self.model,
            Verb.LOAD: self.load,
            Verb.UNLOAD: self.unload,
            Verb.PLAN: self.plan,
        }
        return await verbs[verb](name)

    async def family(self, name: str) -> str:
        """Raises ModelNotFound, and ModelLoadFailed where no family serves the model."""
        model = await self._known(name)
        if model.family is None:
            raise ModelLoadFailed(f"{model.name}: {model.problem or 'no family serves it'}")
        return model.family

    async def model(self, name: str) -> ModelStatus:
        """Raises ModelNotFound."""
        model = await self._known(name)
        table = self.mirror.table  # The next one may lack the model.
        replicas = await self._replicas([family for family in self.handles if family == model.family])
        return model_status(name, table, replicas)

    async def load(self, name: str) -> ModelStatus:
        """Loads the model into one replica and validates it. A version that failed validation is validated again.

        Raises ModelNotFound, and what a request for the model would raise.
        """
        model = await self._known(name)
        if model.problem is not None:
            await registry_actor().retry_failed.remote(model.name)
            await self.mirror.wait_for(lambda table: name not in table.models or table.models[name].problem is None)
            model = await self._known(name)
        error: Error | None = await self._handle(model).load_model.remote(model, LOAD_TIMEOUT_S)
        if error is not None:
            raise error.exception()
        return await self.model(name)

    async def unload(self, name: str) -> ModelStatus:
        """Unloads the model from every replica, after the requests that use it. Raises ModelNotFound."""
        model = await self._known(name)
        await broadcast(self._handle(model), "unload_model", model, timeout_s=UNLOAD_TIMEOUT_S)
        return await self.model(name)

    async def pin(self, name: str, pinned: bool) -> ModelStatus:
        """A pinned model is not evicted. A pin outlives restarts. Raises ModelNotFound."""
        model = await self._known(name)
        await registry_actor().pin.remote(model.model_id, pinned)
        versions = {other.name: other for other in self.mirror.models().values() if other.model_id == model.model_id}
        await asyncio.gather(*(broadcast(self._handle(one), "pin", one, pinned) for one in versions.values()))
        await self.mirror.wait_for(lambda table: name not in table.models or table.models[name].pinned == pinned)
        return await self.model(name)

    async def plan(self, name: str) -> list[Plan]:
        """What loading the model would need, for each replica. Raises ModelNotFound."""
        model = await self._known(name)
        return await broadcast(self._handle(model), "plan", model)

    async def quarantine(self) -> list[QuarantinedInput]:
        """The inputs that are refused."""
        refused: list[QuarantinedInput] = await registry_actor().quarantined.remote()
        return refused

    async def lift(self, digest: str) -> QuarantinedInput:
        """The input, which every ingress takes again. Raises NotFound."""
        lifted: QuarantinedInput | None = await registry_actor().lift.remote(digest)
        if lifted is None:
            raise NotFound(f"no input with the digest {quoted(digest)} is in quarantine")
        await self.mirror.wait_for(lambda table: digest not in table.quarantined.get(lifted.model, ()))
        return lifted

    async def _known(self, name: str) -> Model:
        await self.mirror.ready()
        return self.mirror.models().get(name) or find(self.mirror.models(), name, "")

    def _handle(self, model: Model) -> DeploymentHandle[Any]:
        handle = self.handles.get(model.family or "")
        if handle is None:
            raise ModelLoadFailed(f"{model.name}: {model.problem or 'no family serves it'}")
        return handle

    async def _replicas(self, families: list[str]) -> list[ReplicaStatus]:
        """The status of every replica that answers in time."""
        answers = await asyncio.gather(*(broadcast(self.handles[family], "replica_status") for family in families))
        return [status for statuses in answers for status in statuses]
