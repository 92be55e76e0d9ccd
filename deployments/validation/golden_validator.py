"""Asks each model its golden examples, once for each content, before it answers a caller."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from deployments.contract.errors import ModelLoadFailed, OutOfMemory, ServingError, quoted
from deployments.contract.status import ResidentStatus
from deployments.contract.types import InferRequest, InferResponse
from deployments.repository.model import Model
from deployments.validation.golden import GoldenExample, NotGolden

REMEMBERED = 1024

Answer = Callable[[InferRequest, Model], Awaitable[InferResponse]]
"""Answers a request with a model, which is loaded if need be."""


class GoldenValidator:
    """The verdicts on the models of one replica. `validated` gives a model's folder, or raises why it is refused;
    `example_type` is the family's golden example."""

    def __init__(
        self, validated: Callable[[Model], Path], example_type: type[GoldenExample] | None, answer: Answer
    ) -> None:
        self._validated = validated
        self._example_type = example_type
        self._answer = answer
        self._verdicts: dict[tuple[str, str], asyncio.Task[str | None]] = {}

    async def validate(self, model: Model) -> None:
        """Raises ModelLoadFailed where an example has another answer, and what a request would raise."""
        if not model.manifest.golden:
            return
        key = (model.name, model.digest)
        verdict = self._verdicts.get(key)
        if verdict is None:
            while len(self._verdicts) >= REMEMBERED:
                self._verdicts.pop(next(iter(self._verdicts)))
            verdict = self._verdicts[key] = asyncio.create_task(self._fault(model))
            verdict.add_done_callback(partial(self._forget_failed, key))
        # Shielded: a caller who is cancelled does not cancel the verdict that others wait for.
        if (fault := await asyncio.shield(verdict)) is not None:
            raise ModelLoadFailed(f"{model.name}: {fault}")

    def with_verdict(self, status: ResidentStatus) -> ResidentStatus:
        """The status of a model, which is failed where an example had another answer."""
        verdict = self._verdicts.get((status.name, status.digest))
        if verdict is None or not verdict.done() or verdict.cancelled() or verdict.exception() or not verdict.result():
            return status
        return replace(status, state="failed", reason=f"{status.name}: {verdict.result()}", retryable=False)

    def _forget_failed(self, key: tuple[str, str], verdict: "asyncio.Task[str | None]") -> None:
        """A verdict that was not reached, for want of memory or because the load failed, is tried again: also where
        no caller waits for it any more."""
        if (verdict.cancelled() or verdict.exception()) and self._verdicts.get(key) is verdict:
            del self._verdicts[key]

    async def _fault(self, model: Model) -> str | None:
        """What is wrong with the model's answers, in one line."""
        try:
            folder = await asyncio.to_thread(self._validated, model)
        except ServingError as failure:
            raise failure.saying(f"{model.name}: {failure.message}") from None
        assert self._example_type is not None  # or the repository would have refused the examples
        for number, stated in enumerate(model.manifest.golden, 1):
            example = self._example_type.model_validate(stated)
            try:
                answer = await self._answer(example.request(model.model_id, folder), model)
            except NotGolden as reason:
                return str(reason)
            except ServingError as failure:
                if failure.retryable or isinstance(failure, OutOfMemory | ModelLoadFailed):
                    raise
                return f"golden example {number}: {failure.message}"
            if (fault := example.fault(answer)) is not None:
                return f"golden example {quoted(example.title)}: {fault}"
        return None
