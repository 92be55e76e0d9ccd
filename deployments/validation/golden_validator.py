"""Holds each model to its golden examples, once for each content, before it answers anybody."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

from deployments.contract.errors import ModelLoadFailed, OutOfMemory, ServingError
from deployments.contract.status import ResidentStatus
from deployments.contract.types import InferRequest, InferResponse
from deployments.repository.model import Model
from deployments.validation.golden import NotGolden, check, request_of
from deployments.validation.validator import ModelValidator

logger = logging.getLogger("model_runtime.family")

REMEMBERED = 1024

Ask = Callable[[InferRequest, Model], Awaitable[InferResponse]]
"""Answers a request with a model, loaded if need be."""


class GoldenValidator:
    """What the golden examples of the models of one replica came to."""

    def __init__(self, validator: ModelValidator, ask: Ask) -> None:
        self._validator = validator
        self._ask = ask
        self._proofs: dict[tuple[str, str], asyncio.Task[str | None]] = {}

    async def hold(self, model: Model) -> None:
        """Raises ModelLoadFailed where an example has another answer, and what a request would raise."""
        if not model.manifest.golden:
            return
        key = (model.name, model.digest)
        proof = self._proofs.get(key)
        if proof is None:
            while len(self._proofs) >= REMEMBERED:
                self._proofs.pop(next(iter(self._proofs)))
            proof = self._proofs[key] = asyncio.create_task(self._prove(model))
            proof.add_done_callback(partial(self._ended, key))
        # Shielded: a caller who leaves does not take the others' proof along.
        fault = await asyncio.shield(proof)
        if fault is not None:
            raise ModelLoadFailed(f"{model.name}: {fault}")

    def shown(self, status: ResidentStatus) -> ResidentStatus:
        """The status of a model, which is failed where its proof is."""
        proof = self._proofs.get((status.name, status.digest))
        if proof is None or not proof.done() or proof.cancelled() or proof.exception() or not proof.result():
            return status
        return replace(status, state="failed", reason=f"{status.name}: {proof.result()}")

    def _ended(self, key: tuple[str, str], proof: "asyncio.Task[str | None]") -> None:
        """Forgets a proof that came to nothing, for want of room or because the load failed: also where nobody waits
        for it any more."""
        if (proof.cancelled() or proof.exception()) and self._proofs.get(key) is proof:
            del self._proofs[key]

    async def _prove(self, model: Model) -> str | None:
        """What is wrong with the model's answers, in one line."""
        try:
            folder = await asyncio.to_thread(self._validator.validate, model)
        except ServingError as failure:
            raise type(failure)(f"{model.name}: {failure.message}") from None
        for number, example in enumerate(model.manifest.golden, 1):
            try:
                check(example, await self._ask(request_of(example, model.model_id, folder), model))
            except NotGolden as fault:
                return str(fault)
            except ServingError as failure:
                if failure.retryable or isinstance(failure, OutOfMemory):
                    raise
                return f"golden example {number}: {failure.message}"
            except (TypeError, AttributeError):
                logger.exception("a golden example of %s failed", model.name)
                return f"golden example {number} is not one for this family"
        return None
