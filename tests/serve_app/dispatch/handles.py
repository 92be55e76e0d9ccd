"""A deployment's handle as far as dispatch uses it: the test decides which replicas there are and what they answer.
And a registry without models, and without an actor behind it."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

from ray.serve.handle import DeploymentHandle
from ray.serve.request_router import ReplicaID

from deployments.contract.status import Suspect
from deployments.contract.types import TextGeneration, TextGenerationResult
from deployments.replica.calls import Call, Progress, Reply
from deployments.repository.model import Model
from deployments.repository.versions import Table
from serve_app.registry.quarantine import Quarantine


class FakeExchange:
    """One handle call; its stream has what the test puts into it."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self.calls = calls
        self.cancelled = False
        self._stream: asyncio.Queue[list[tuple[int, Reply | Progress]] | Exception | None] = asyncio.Queue()

    @property
    def prompts(self) -> list[str]:
        return [call.request.prompt for call in self.calls if isinstance(call.request, TextGeneration)]

    def reply(self, *replies: tuple[int, Reply | Progress]) -> None:
        self._stream.put_nowait(list(replies))

    def answer(self) -> None:
        """Every call with its own prompt."""
        self.reply(*((n, TextGenerationResult(generated_text=prompt)) for n, prompt in enumerate(self.prompts)))
        self.end()

    def end(self, failure: Exception | None = None) -> None:
        self._stream.put_nowait(failure)

    def cancel(self) -> None:
        self.cancelled = True

    async def __aiter__(self) -> AsyncIterator[list[tuple[int, Reply | Progress]]]:
        while (item := await self._stream.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item


class FakeHandle:
    """Keeps the exchanges and the broadcasts that are sent by it. `script`: what each exchange replies at once."""

    deployment_name = "Fake"

    def __init__(self, script: Sequence[list[tuple[int, Reply]]] = ()) -> None:
        self.script = script
        self.exchanges: list[FakeExchange] = []
        self.broadcasts: list[tuple[object, ...]] = []
        self.exchange = self

    @property
    def sent(self) -> list[list[str]]:
        return [exchange.prompts for exchange in self.exchanges]

    def show(self, replicas: Mapping[ReplicaID, object]) -> None:
        """Makes these the replicas that Serve knows of."""
        router = SimpleNamespace(_request_router=SimpleNamespace(curr_replicas=replicas))
        self._router = SimpleNamespace(_asyncio_router=router)

    def options(self, **_: object) -> "FakeHandle":
        return self

    def remote(self, calls: Sequence[Call]) -> FakeExchange:
        self.exchanges.append(FakeExchange(calls))
        for replies in self.script:
            self.exchanges[-1].reply(*replies)
        return self.exchanges[-1]

    def broadcast(self, *asked: object) -> "FakeHandle":
        self.broadcasts.append(asked)
        return self

    async def results_async(self, timeout_s: float, return_exceptions: bool) -> list[object]:
        return []

    def handle(self) -> DeploymentHandle[Any]:
        """Itself, as what it plays."""
        return cast(DeploymentHandle[Any], self)


class NoModels:
    """Is not asked for a model. Keeps a quarantine of its own, as the actor does for all ingresses."""

    def __init__(self) -> None:
        self.quarantine = Quarantine(60)

    @property
    def table(self) -> Table:
        return Table(quarantined=self.quarantine.digests())

    async def find_model(self, model_id: str, family: str) -> Model:
        raise AssertionError("the family has no models")

    async def died_alone(self, suspect: Suspect) -> bool:
        return self.quarantine.died_alone(suspect)

    def answered_alone(self, digest: str) -> None:
        self.quarantine.answered_alone(digest)
