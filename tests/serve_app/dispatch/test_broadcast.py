"""Calls to all replicas of a deployment: one that fails or ends is left out, and nothing raises."""

from typing import Any, cast

import pytest
from ray.exceptions import RayActorError, RayTaskError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from serve_app.dispatch.broadcast import broadcast, is_ready


class Answering:
    """A handle whose replicas give `answers`, an exception among them where a replica raises."""

    deployment_name = "Text"

    def __init__(self, *answers: object, raises: Exception | None = None) -> None:
        self.answers = list(answers)
        self.raises = raises
        self.ready = self

    def broadcast(self, method: str, *arguments: object) -> "Answering":
        return self

    async def results_async(self, timeout_s: float, return_exceptions: bool) -> list[object]:
        if self.raises is not None:
            raise self.raises
        return self.answers

    async def remote(self) -> object:
        if self.raises is not None:
            raise self.raises
        return all(self.answers)

    def handle(self) -> DeploymentHandle[Any]:
        return cast(DeploymentHandle[Any], self)


async def test_replicas_that_raise_are_left_out() -> None:
    failed = RayTaskError("method", "traceback", RuntimeError("no"))
    assert await broadcast(Answering(1, RayActorError(), 2, failed).handle(), "method") == [1, 2]


async def test_a_deployment_that_does_not_answer_in_time_has_no_answers() -> None:
    assert await broadcast(Answering(raises=TimeoutError()).handle(), "method") == []


@pytest.mark.parametrize(
    ("raised", "ready"),
    [
        (None, True),
        (RayActorError(), False),
        (TimeoutError(), False),
        (DeploymentUnavailableError(DeploymentID("Text")), False),
    ],
)
async def test_a_deployment_is_ready_where_a_replica_answers(raised: Exception | None, ready: bool) -> None:
    assert await is_ready(Answering(raises=raised).handle()) is ready


async def test_a_deployment_whose_replica_cannot_answer_is_not_ready() -> None:
    assert not await is_ready(Answering(False).handle())
