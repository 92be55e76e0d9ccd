"""What a call does after its replica was lost: it is repeated, alone once it is suspected, and refused where replicas
end with it alone."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from ray.exceptions import RayActorError

from deployments.contract.errors import InputQuarantined, OutOfMemory, Unavailable
from deployments.contract.settings import FamilySettings
from deployments.contract.status import Suspect
from deployments.contract.types import InferResponse, TextGeneration, TextGenerationResult
from deployments.replica.calls import Progress
from deployments.replica.launcher_profile import LauncherProfile
from deployments.system.oom_kills import OomWatch
from serve_app.access.caller import RequestContext
from serve_app.dispatch.dispatcher import Dispatcher, Route
from serve_app.dispatch.pending import Pending
from serve_app.dispatch.replica_pool import ReplicaPool
from serve_app.dispatch.trial import MOST_LOSSES
from tests.serve_app.dispatch.handles import FakeExchange, FakeHandle, NoModels
from tests.support.until import until

POISON = TextGeneration(model_id="any", prompt="poison", max_tokens=1)
RESULT = TextGenerationResult(generated_text="poison")
ROUTE = Route("text", TextGeneration, has_models=False, settings=FamilySettings())


class Asked:
    """A request under way, and the exchanges that carry it."""

    def __init__(self, registry: NoModels, profile: LauncherProfile | None = None) -> None:
        self.handle = FakeHandle()
        pools = {"text": ReplicaPool(self.handle.handle(), 2)}
        self.kills = 0
        self.call: Pending | None = None
        self.dispatch = Dispatcher((ROUTE,), pools, registry, profile, OomWatch(lambda: self.kills))
        self.answer: asyncio.Task[InferResponse] = asyncio.create_task(self._ask())

    async def _ask(self) -> InferResponse:
        self.call = await self.dispatch.prepare(POISON, RequestContext("r"))
        return await self.dispatch.send(self.call)

    async def loses(self, *progress: Progress) -> FakeExchange:
        """The next replica says this of the call, and ends."""
        exchange = await self.exchange()
        for one in progress:
            exchange.reply((0, one))
        self.handle.exchanges.clear()
        exchange.end(RayActorError())
        return exchange

    async def exchange(self) -> FakeExchange:
        await until(lambda: self.handle.exchanges)
        return self.handle.exchanges[0]


@pytest.fixture
def registry() -> NoModels:
    return NoModels()


@pytest.fixture
async def asked(registry: NoModels) -> AsyncIterator[Asked]:
    one = Asked(registry)
    yield one
    one.answer.cancel()


async def test_a_second_loss_makes_a_call_one_to_be_alone_and_its_answer_ends_the_suspicion(
    asked: Asked, registry: NoModels
) -> None:
    alone = [(await asked.loses()).calls[0].alone for _ in range(2)]
    assert alone == [False, False]
    exchange = await asked.exchange()
    assert exchange.calls[0].alone
    exchange.reply((0, Progress.ALONE), (0, RESULT))
    assert await asked.answer == RESULT
    assert registry.table.quarantined == {}


async def test_an_input_with_which_two_replicas_end_alone_is_refused_from_then_on(
    asked: Asked, registry: NoModels
) -> None:
    for progress in ((), (), (Progress.ALONE,), (Progress.ALONE,)):
        await asked.loses(*progress)
    with pytest.raises(InputQuarantined) as refused:
        await asked.answer
    ((model, (digest,)),) = registry.table.quarantined.items()
    assert (model, digest in refused.value.message) == ("text", True)
    for seed, prompt, stream in ((1, "poison", True), (None, "poison", None)):
        again = POISON.model_copy(update={"seed": seed, "prompt": prompt, "stream": stream})
        with pytest.raises(InputQuarantined):
            await asked.dispatch.prepare(again, RequestContext("another"))
    await asked.dispatch.prepare(POISON.model_copy(update={"prompt": "neighbour"}), RequestContext("n"))


async def test_deaths_alone_of_one_input_are_counted_across_its_requests(registry: NoModels) -> None:
    first, second = Asked(registry), Asked(registry)
    for one in (first, second):
        for progress in ((), (), (Progress.ALONE,)):
            await one.loses(*progress)
    with pytest.raises(InputQuarantined):
        await second.answer
    assert registry.table.quarantined
    first.answer.cancel()


async def test_a_call_that_was_held_or_not_alone_is_never_refused_however_many_replicas_it_loses(
    asked: Asked, registry: NoModels
) -> None:
    fates = [(Progress.HELD,), (), (Progress.HELD,), (Progress.HELD, Progress.SENT), (), ()]
    assert len(fates) == MOST_LOSSES
    for progress in fates:
        await asked.loses(*progress)
    with pytest.raises(Unavailable, match="6 times"):
        await asked.answer
    assert registry.table.quarantined == {}


async def test_a_call_for_which_memory_does_not_suffice_alone_is_told_so_and_not_quarantined(
    asked: Asked, registry: NoModels
) -> None:
    asked.kills += 1
    assert not (await asked.loses()).calls[0].alone
    asked.kills += 1
    assert (await asked.loses(Progress.ALONE)).calls[0].alone
    with pytest.raises(OutOfMemory, match="nothing else"):
        await asked.answer
    assert registry.table.quarantined == {}
    assert not registry.quarantine.died_alone(Suspect("d", "m", "f", "r"))


async def test_on_one_machine_a_file_says_who_was_alone_whatever_messages_came(
    registry: NoModels, tmp_path: Path
) -> None:
    """An answer that is on its way when the next call ends the replica is lost with it."""
    profile = LauncherProfile(tmp_path)
    profile.socket("r").touch()
    answered, poison = Asked(registry, profile), Asked(registry, profile)
    for one in (answered, poison):
        for _ in range(2):
            await one.loses()
    for _ in range(2):
        assert answered.call
        answered.call.replica = "r"
        await answered.loses(Progress.ALONE)
        mark = profile.alone_file((await poison.exchange()).calls[0].call_id)
        mark.touch()
        await poison.loses()
    with pytest.raises(InputQuarantined):
        await poison.answer
    assert not mark.exists()
    await answered.exchange()
    assert not answered.answer.done()
    answered.answer.cancel()
