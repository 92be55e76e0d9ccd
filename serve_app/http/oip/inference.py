"""The protocol without a transport: which models there are, and what is asked of them. REST and gRPC share it."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from deployments.contract.errors import ModelNotFound, Unavailable, quoted
from deployments.contract.status import ModelStatus
from deployments.contract.types import Error, InferRequest, InferResponse
from serve_app.access.api_keys import Access
from serve_app.access.caller import RequestContext
from serve_app.http.interfaces import Operations, Runtime
from serve_app.http.oip.requests import Asked, Signature
from serve_app.http.oip.tensors import tensors_of

EXTENSIONS = ("binary_tensor_data", "schedule_policy")


@dataclass(frozen=True, slots=True)
class Inference:
    """`signatures`: by family."""

    access: Access
    runtime: Runtime
    operations: Operations
    signatures: Mapping[str, Signature]

    async def ready(self) -> None:
        """Raises Unavailable."""
        if reasons := await self.operations.not_ready():
            raise Unavailable(f"not ready: {', '.join(reasons)}")

    async def model_ready(self, model_id: str, version: str | None) -> None:
        """A model that is only on disk is ready: a request loads it. Raises ModelNotFound, Unavailable."""
        status = await self._status(model_id, version)
        if status.state == "failed":
            raise Unavailable(f"{model_id} is not ready: {status.reason}")

    async def metadata(self, model_id: str, version: str | None) -> dict[str, Any]:
        """Raises ModelNotFound."""
        status = await self._status(model_id, version)
        signature = self.signatures.get(status.family or "")
        inputs = [one.metadata for one in tensors_of(signature.request).values() if one.required] if signature else []
        outputs = [one.metadata for one in tensors_of(signature.result).values()] if signature else []
        return {
            "name": model_id,
            "versions": [str(version) for version in status.versions],
            "platform": status.family or "",
            "inputs": inputs,
            "outputs": outputs,
        }

    async def signature(self, name: str) -> Signature:
        """Raises ModelNotFound, ModelLoadFailed."""
        return self.signatures[await self.operations.family(name)]

    def scheduled(self, asked: Asked, context: RequestContext) -> RequestContext:
        """With the priority and the deadline of the parameters. Raises InvalidRequest, PermissionDenied."""
        return replace(context, caller=self.access.rescheduled(context.caller, asked.scheduling))

    async def _status(self, model_id: str, version: str | None) -> ModelStatus:
        for status in await self.operations.models():
            if status.model_id == model_id and (version is None or version in map(str, status.versions)):
                return status
        raise ModelNotFound(f"there is no model {quoted(name_of(model_id, version))}")


def name_of(model_id: str, version: str | None) -> str:
    """As the contract's requests name a model."""
    return model_id if version is None else f"{model_id}@{version}"


async def answers(
    runtime: Runtime, requests: Sequence[InferRequest], context: RequestContext
) -> list[InferResponse] | Error:
    """Every result, or the first error, which cancels the other requests."""
    tasks = [asyncio.create_task(runtime.answer(one, context)) for one in requests]
    try:
        for answer in asyncio.as_completed(tasks):
            if isinstance(response := await answer, Error):
                return response
    finally:
        for task in tasks:
            task.cancel()
    return [task.result() for task in tasks]
