"""From a request to a call, and from a call to its response, a repeat, or an error."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest
from ray.exceptions import RayActorError

from deployments.contract.chunk import Chunk
from deployments.contract.errors import DeadlineExceeded, InvalidRequest, ModelNotFound, Unavailable
from deployments.contract.generation import FolderDefaults
from deployments.contract.settings import FamilySettings
from deployments.contract.types import ImageClassification, TextGeneration, TextGenerationResult
from deployments.families.text_generation.family import TextGenerationOptions
from deployments.replica.calls import Reply
from deployments.repository.manifest import Manifest
from deployments.repository.model import Model
from deployments.repository.versions import Table
from serve_app.access.caller import Caller, RequestContext
from serve_app.dispatch.dispatcher import Dispatcher, Route
from serve_app.dispatch.replica_pool import ReplicaPool
from tests.serve_app.dispatch.handles import FakeHandle, NoModels
from tests.support.until import until

REQUEST = TextGeneration(model_id="any", prompt="a", max_tokens=1)
RESULT = TextGenerationResult(generated_text="abc")
CONTEXT = RequestContext("r")


def dispatcher(
    script: Sequence[list[tuple[int, Reply]]] = (), deadline_s: float = 60, max_deadline_s: float | None = None
) -> tuple[Dispatcher, FakeHandle]:
    """Each handle call has the script's replies; then nothing more comes of it."""
    settings, handle = FamilySettings(deadline_s=deadline_s, max_deadline_s=max_deadline_s), FakeHandle(script)
    route = Route("text", TextGeneration, has_models=False, settings=settings)
    return Dispatcher((route,), {"text": ReplicaPool(handle.handle(), 2)}, NoModels()), handle


async def listed(replies: AsyncIterator[Reply]) -> list[Reply]:
    return [reply async for reply in replies]


class OneModel(NoModels):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self._model = model

    @property
    def table(self) -> Table:
        return Table({"m": self._model})

    async def find_model(self, model_id: str, family: str) -> Model:
        raise AssertionError("it is in the table")


@pytest.mark.parametrize(
    ("setting", "manifest", "expected"),
    [
        (True, {}, (0.6, 20, 9)),
        (True, {"generation": {"top_k": 5}}, (0.6, 5, 9)),
        (False, {"generation": {"top_k": 5}}, (1.0, 5, 16)),
        (False, {"folder_defaults": True}, (0.6, 20, 9)),
        (True, {"folder_defaults": False}, (1.0, None, 16)),
    ],
)
async def test_what_a_request_leaves_open_is_said_by_model_yaml_then_the_folder_then_the_protocol(
    setting: bool, manifest: dict[str, object], expected: tuple[object, ...]
) -> None:
    folder = FolderDefaults(temperature=0.6, top_k=20, max_tokens=9)
    said = Manifest.model_validate(manifest)
    model = Model("m", None, Path(), "d", "text", manifest=said, generation=folder)
    settings, pools = TextGenerationOptions(folder_defaults=setting), {"text": ReplicaPool(FakeHandle([]).handle(), 2)}
    dispatch = Dispatcher((Route("text", TextGeneration, True, settings),), pools, OneModel(model))
    asked = TextGeneration(model_id="m", prompt="a", max_tokens=16)
    left_open = {"temperature": 1.0, "max_tokens": 16}
    request = (await dispatch.prepare(asked, RequestContext("r", left_open=left_open))).call.request
    assert isinstance(request, TextGeneration)
    assert (request.temperature, request.top_k, request.max_tokens) == expected
    assert request.seed is not None
    again = (await dispatch.prepare(asked, RequestContext("r", left_open=left_open))).call.request
    assert again == request
    other = (await dispatch.prepare(asked, RequestContext("another", left_open=left_open))).call.request
    assert other != request
    loud = asked.model_copy(update={"temperature": 0.0, "top_k": 3})
    request = (await dispatch.prepare(loud, CONTEXT)).call.request
    assert isinstance(request, TextGeneration)
    assert (request.temperature, request.top_k, request.max_tokens) == (0.0, 3, 16)


async def test_a_request_that_no_replica_takes_is_unavailable_at_its_deadline() -> None:
    dispatch, _ = dispatcher([], 0.01)
    with pytest.raises(Unavailable):
        await dispatch.send(await dispatch.prepare(REQUEST, CONTEXT))


async def test_a_request_that_was_taken_and_not_answered_has_exceeded_its_deadline() -> None:
    dispatch, _ = dispatcher([[]], 0.01)
    with pytest.raises(DeadlineExceeded):
        await dispatch.send(await dispatch.prepare(REQUEST, CONTEXT))


async def test_a_stream_whose_replica_is_lost_goes_on_where_it_was_cut() -> None:
    dispatch, handle = dispatcher()
    replies = dispatch.stream(await dispatch.prepare_stream(REQUEST, CONTEXT))
    reading = asyncio.create_task(listed(replies))
    await until(lambda: handle.exchanges)
    handle.exchanges[0].reply((0, Chunk("a", 1)))
    handle.exchanges[0].end(RayActorError())
    await until(lambda: len(handle.exchanges) == 2)
    handle.exchanges[1].reply((0, Chunk("abc", 3)), (0, RESULT))
    assert await reading == [Chunk("a", 1), Chunk("bc", 3), RESULT]


async def test_a_stream_that_is_closed_cancels_its_call() -> None:
    dispatch, handle = dispatcher([[(0, Chunk("a", 1))]])
    async with aclosing(dispatch.stream(await dispatch.prepare_stream(REQUEST, CONTEXT))) as replies:
        assert await anext(replies) == Chunk("a", 1)
    await until(lambda: handle.exchanges[0].cancelled)


async def test_chunks_that_wait_for_their_reader_come_together() -> None:
    dispatch, _ = dispatcher([[(0, Chunk("a", 1))], [(0, Chunk("b", 2)), (0, Chunk("c", 3)), (0, RESULT)]])
    call = await dispatch.prepare_stream(REQUEST, CONTEXT)
    assert [reply async for reply in dispatch.stream(call)] == [Chunk("abc", 3), RESULT]


async def test_a_variant_without_a_family_is_refused() -> None:
    dispatch, _ = dispatcher()
    with pytest.raises(InvalidRequest):
        await dispatch.prepare(ImageClassification(model_id="any", image_data=b""), CONTEXT)


@pytest.mark.parametrize(("left_s", "longest_s"), [(None, 60), (1000, 60), (30, 30), (-1, -1)])
async def test_a_call_has_what_is_left_of_the_nearer_deadline(left_s: float | None, longest_s: float) -> None:
    dispatch, _ = dispatcher(deadline_s=60)
    caller = Caller(deadline_at=None if left_s is None else time.monotonic() + left_s)
    call = await dispatch.prepare(REQUEST, RequestContext("r", caller))
    assert longest_s - 1 < call.call.timeout_s <= longest_s


@pytest.mark.parametrize(("asked_s", "given_s"), [(None, 60), (20, 20), (100, 100), (1000, 300)])
async def test_a_caller_may_ask_for_as_much_time_as_the_operator_allows(asked_s: float | None, given_s: float) -> None:
    dispatch, _ = dispatcher(deadline_s=60, max_deadline_s=300)
    caller = Caller(deadline_at=None if asked_s is None else time.monotonic() + asked_s)
    call = await dispatch.prepare(REQUEST, RequestContext("r", caller))
    assert call.call.timeout_s == pytest.approx(given_s, abs=1)


@pytest.mark.parametrize("asked_s", [None, 20, 1000])
async def test_a_stream_goes_on_while_it_is_not_silent_until_its_callers_deadline(asked_s: float | None) -> None:
    dispatch, handle = dispatcher(deadline_s=60)
    caller = Caller(deadline_at=None if asked_s is None else time.monotonic() + asked_s)
    call = await dispatch.prepare_stream(REQUEST, RequestContext("r", caller))
    reading = asyncio.create_task(listed(dispatch.stream(call)))
    await until(lambda: handle.exchanges)
    now = asyncio.get_running_loop().time()
    assert call.limit.ends_at - now == pytest.approx(math.inf if asked_s is None else asked_s, abs=1)
    call.limit.at -= 19  # As long as nothing has come.
    handle.exchanges[0].reply((0, Chunk("a", 1)))
    await until(lambda: call.limit.at > now + min(asked_s or 60, 60) - 1)
    assert call.limit.timeout
    assert call.limit.timeout.when() == call.limit.at
    handle.exchanges[0].reply((0, RESULT))
    assert await reading == [Chunk("a", 1), RESULT]


async def test_a_stream_that_falls_silent_has_exceeded_its_deadline() -> None:
    dispatch, _ = dispatcher([[(0, Chunk("a", 1))]], 0.2)
    with pytest.raises(DeadlineExceeded, match=r"no text for 0\.2 s"):
        await listed(dispatch.stream(await dispatch.prepare_stream(REQUEST, CONTEXT)))


async def test_a_stream_whose_callers_deadline_passes_ends_however_much_it_says() -> None:
    dispatch, handle = dispatcher(deadline_s=60)
    context = RequestContext("r", Caller(deadline_at=time.monotonic() + 0.05))
    reading = asyncio.create_task(listed(dispatch.stream(await dispatch.prepare_stream(REQUEST, context))))
    await until(lambda: handle.exchanges)

    def says_more() -> bool:
        handle.exchanges[0].reply((0, Chunk("a", 1)))
        return reading.done()

    await until(says_more)
    with pytest.raises(DeadlineExceeded, match="within the deadline"):
        await reading


async def test_a_call_is_sent_with_what_is_left_of_its_time() -> None:
    dispatch, _ = dispatcher([[(0, RESULT)]])
    call = await dispatch.prepare(REQUEST, CONTEXT)
    call.limit.at -= 40
    await dispatch.send(call)
    assert 19 < call.call.timeout_s <= 20


async def test_the_table_is_looked_up_and_what_it_lacks_is_asked_for() -> None:
    there = Model("there", None, Path("there"), "1", "text")

    class Registry(NoModels):
        @property
        def table(self) -> Table:
            return Table(models={"there": there, "broken": replace(there, problem="torn")})

        async def find_model(self, model_id: str, family: str) -> Model:
            raise ModelNotFound(model_id)

    settings = FamilySettings()
    route = Route("text", TextGeneration, has_models=True, settings=settings)
    dispatch = Dispatcher((route,), {}, Registry())
    call = await dispatch.prepare(TextGeneration(model_id="there", prompt="", max_tokens=1), CONTEXT)
    assert (call.call.model, call.model) == (there, "there")
    for model_id in ("broken", "elsewhere"):
        with pytest.raises(ModelNotFound):
            await dispatch.prepare(TextGeneration(model_id=model_id, prompt="", max_tokens=1), CONTEXT)
