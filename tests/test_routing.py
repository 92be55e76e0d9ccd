"""An exchange goes to a replica that holds its model, until that one is busy."""

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from deployments.calls import Call
from deployments.protocol import TextGeneration
from deployments.repository import Model, Repository
from serve_app.routing import ResidentFirst
from tests.conftest import until
from tests.tiny_models import save_text_model


@dataclass(eq=False)
class Replica:
    replica_id: str
    routing_stats: dict[str, Any] = field(default_factory=dict)


@dataclass
class Pending:
    args: list[Any]
    routing_context: Any = field(default_factory=lambda: type("Context", (), {"should_backoff": False})())


def router(*replicas: Replica) -> ResidentFirst:
    """Without Serve around it."""
    router = ResidentFirst.__new__(ResidentFirst)
    router._sent = {}
    router._replicas = {replica.replica_id: replica for replica in replicas}
    return router


def pending(name: str) -> Any:
    model = Model(name, None, Path(name), "digest")
    return Pending([[Call(TextGeneration(model_id=name, prompt="a", max_tokens=1), "r", 1.0, model)]])


async def order(router: ResidentFirst, request: Any) -> list[list[str]]:
    ranks = await router.choose_replicas(list(router._replicas.values()), request)
    return [[replica.replica_id for replica in rank] for rank in ranks]


async def test_a_replica_that_holds_the_model_comes_first() -> None:
    routes = router(Replica("a", {"models": ["m"]}), Replica("b", {"models": ["n"]}))
    assert await order(routes, pending("m")) == [["a"], ["b"]]
    assert await order(routes, pending("n")) == [["b"], ["a"]]


async def test_a_hot_model_spreads_to_a_replica_that_is_not_busy() -> None:
    routes = router(Replica("a", {"models": ["m"], "busy": True}), Replica("b", {"models": []}))
    assert await order(routes, pending("m")) == [["b"], ["a"]]
    routes._replicas["b"].routing_stats["busy"] = True
    assert await order(routes, pending("m")) == [["a"], ["b"]]


async def test_what_was_sent_a_moment_ago_is_known_before_the_replica_tells() -> None:
    routes = router(Replica("a"), Replica("b"))
    routes.on_request_routed(pending("m"), "b", None)
    assert (await order(routes, pending("m")))[0] == ["b"]
    # Another model goes where more room is left.
    assert (await order(routes, pending("n")))[0] == ["a"]


async def test_a_cold_model_goes_where_most_room_is() -> None:
    routes = router(Replica("a", {"free": 0.2}), Replica("b", {"free": 0.7}))
    assert await order(routes, pending("m")) == [["b"], ["a"]]


async def test_calls_without_a_model_go_to_the_least_busy() -> None:
    routes = router(Replica("a", {"free": 0.2}), Replica("b", {"models": ["m"]}))
    assert await order(routes, Pending([])) == [["a", "b"]]


@pytest.mark.ray
def test_two_replicas_share_the_models_and_a_hot_one_spreads(serve_url: str, tmp_path: Path) -> None:
    from ray import serve

    from deployments.family import ReplicaOptions
    from deployments.settings import Autoscaling, FamilySettings
    from serve_app.app import FAMILIES, deployment_of

    root = tmp_path / "models"
    for name in ("a", "b"):
        save_text_model(root / name)
    settings = FamilySettings(autoscaling=Autoscaling(min_replicas=2, max_replicas=2, target_ongoing_requests=4))
    family = next(family for family in FAMILIES if family.name == "text_generation")
    options = ReplicaOptions(family.name, root, {family.name: family.architectures or ""}, settings, tmp_path / "cache")
    handle = serve.run(deployment_of(family, settings, 0).bind(options), name="two", route_prefix=None)
    models = Repository(root, options.architectures)
    exchange = handle.options(stream=True, _by_reference=False).exchange
    numbers = itertools.count()

    def ask(name: str, calls: int, tokens: int = 1) -> Any:
        request = TextGeneration(model_id=name, prompt="a", max_tokens=tokens)
        model = models.find(name, family.name)
        return exchange.remote([Call(request, "r", 60.0, model, call_id=str(next(numbers))) for _ in range(calls)])

    def holders(name: str) -> set[str]:
        statuses = handle.broadcast("replica_status").results(timeout_s=30)
        return {
            status.replica
            for status in statuses
            for model in status.models
            if (model.name, model.state) == (name, "ready")
        }

    for name in ("a", "b") * 4:
        list(ask(name, 1))
    assert len(holders("a")) == len(holders("b")) == 1
    assert holders("a") != holders("b")

    def spread() -> bool:
        exchanges = [ask("a", 16, tokens=80) for _ in range(4)]
        for under_way in exchanges:
            list(under_way)
        return len(holders("a")) == 2

    until(spread)
    serve.delete("two")
