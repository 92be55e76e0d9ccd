"""What a caller is told when no answer comes, and how a stream reaches whoever reads it slowly."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from deployments.contract.errors import DeadlineExceeded, InvalidRequest, Unavailable
from deployments.contract.settings import FamilySettings
from deployments.contract.types import Chunk, ImageClassification, TextGeneration, TextGenerationResult
from deployments.replica.calls import Call, Reply
from serve_app.access.caller import RequestContext
from serve_app.dispatch.dispatcher import Dispatcher, Route
from serve_app.registry.mirror import RegistryMirror

REQUEST = TextGeneration(model_id="any", prompt="a", max_tokens=1)
CONTEXT = RequestContext("r")
Script = Sequence[list[tuple[int, Reply]]]


class Replies:
    """What a replica says to one handle call; then nothing more, for ever."""

    def __init__(self, script: Script) -> None:
        self.script = script

    async def __aiter__(self) -> AsyncIterator[list[tuple[int, Reply]]]:
        for replies in self.script:
            yield replies
        await asyncio.Event().wait()

    def cancel(self) -> None: ...


class Handle:
    """A deployment's handle, as far as the dispatcher uses it; its own `exchange`."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.exchange = self

    def options(self, **_: object) -> "Handle":
        return self

    def remote(self, calls: Sequence[Call]) -> Replies:
        return Replies(self.script)


def dispatcher(script: Script) -> tuple[Dispatcher, Route]:
    settings = FamilySettings(deadline_s=0.05)
    route = Route("text", TextGeneration, has_models=False, settings=settings, on_gpu=False, may_be_empty=False)
    return Dispatcher((route,), {"text": Handle(script)}, RegistryMirror()), route  # type: ignore[dict-item]  # a fake


async def test_a_request_that_no_replica_takes_is_unavailable_at_its_deadline() -> None:
    dispatch, route = dispatcher([])
    with pytest.raises(Unavailable):
        await dispatch.call(REQUEST, CONTEXT, route)


async def test_a_request_that_was_taken_and_not_answered_has_exceeded_its_deadline() -> None:
    dispatch, route = dispatcher([[]])
    with pytest.raises(DeadlineExceeded):
        await dispatch.call(REQUEST, CONTEXT, route)


async def test_chunks_that_wait_for_their_reader_come_together() -> None:
    result = TextGenerationResult(generated_text="abc")
    dispatch, route = dispatcher([[(0, Chunk("a", 1))], [(0, Chunk("b", 2)), (0, Chunk("c", 3)), (0, result)]])
    assert [reply async for reply in dispatch.stream(REQUEST, CONTEXT, route)] == [Chunk("abc", 3), result]


async def test_a_variant_without_a_family_is_refused() -> None:
    dispatch, _ = dispatcher([])
    with pytest.raises(InvalidRequest):
        dispatch.route(ImageClassification(model_id="any", image_data=b""))
