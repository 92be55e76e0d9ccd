"""What both transports of the protocol share."""

import asyncio
from typing import Any

import pytest

from deployments.contract.errors import ERRORS, ModelNotFound, Unavailable
from deployments.contract.types import TextGeneration
from serve_app.access.caller import RequestContext
from serve_app.http.oip.inference import Inference, answers, name_of
from tests.support.http_runtimes import SIGNATURES, FakeRuntime, status
from tests.support.until import until


@pytest.fixture
def inference(runtime: FakeRuntime) -> Inference:
    return Inference(runtime.access, runtime, runtime, SIGNATURES)


def test_a_version_is_a_part_of_the_contracts_name() -> None:
    assert (name_of("team/m", None), name_of("team/m", "2")) == ("team/m", "team/m@2")


async def test_a_model_that_no_family_serves_has_no_tensors(inference: Inference, runtime: FakeRuntime) -> None:
    runtime.statuses = [status("odd", "nobodys")]
    metadata = await inference.metadata("odd", None)
    assert (metadata["inputs"], metadata["outputs"], metadata["versions"]) == ([], [], [])


async def test_readiness_is_raised_where_there_is_none(inference: Inference, runtime: FakeRuntime) -> None:
    await inference.ready()
    await inference.model_ready("team/m", "2")
    with pytest.raises(ModelNotFound, match="'team/m@3'"):
        await inference.model_ready("team/m", "3")
    runtime.is_ready = False
    with pytest.raises(Unavailable):
        await inference.ready()


async def test_the_first_error_cancels_the_other_rows(runtime: FakeRuntime) -> None:
    asked = 0

    async def script(request: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise ERRORS["overloaded"]("full")
        await asyncio.Event().wait()
        yield

    runtime.script = script
    request = TextGeneration(model_id="m", prompt="p", max_tokens=1)
    error = await answers(runtime, [request, request], RequestContext("r"))
    assert getattr(error, "code", None) == "overloaded"
    await until(lambda: runtime.under_way == 0)
