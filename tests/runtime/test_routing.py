"""Which of several replicas gets a model's requests: the one that holds it, until that one is busy."""

from pathlib import Path

import httpx

from deployments.contract.settings import Autoscaling
from deployments.contract.types import TextGeneration, TextGenerationResult
from deployments.families.table import FAMILIES
from deployments.families.text_generation.family import TextGenerationOptions
from serve_app.app import compose
from serve_app.config.config import RuntimeConfig
from tests.support.running import replica_pids
from tests.support.tiny_models import save_text_model
from tests.support.until import wait_until


def test_two_replicas_share_the_models_and_a_hot_one_spreads(serve_url: str, tmp_path: Path) -> None:
    from ray import serve

    for name in ("a", "b", "warm"):
        save_text_model(tmp_path / name)
    two = Autoscaling(min_replicas=2, max_replicas=2, target_ongoing_requests=4)
    family = next(family for family in FAMILIES if family.name == "text_generation")
    settings = TextGenerationOptions(autoscaling=two, num_gpus=0, preload=("warm",))
    config = RuntimeConfig(models=tmp_path, families={family.name: settings})
    handle = serve.run(compose(config, (family,)), name="two", route_prefix="/two")

    def ask(name: str, calls: int = 1, tokens: int = 1) -> None:
        request = TextGeneration(model_id=name, prompt="a", max_tokens=tokens)
        asked = [handle.infer.remote(request) for _ in range(calls)]
        assert {type(answer.result(timeout_s=60)) for answer in asked} == {TextGenerationResult}

    def holders(name: str) -> set[str]:
        statuses = {status.model_id: status for status in handle.models.remote().result(timeout_s=30)}
        return {residence.replica for residence in statuses[name].replicas if residence.state == "ready"}

    def spread() -> bool:
        ask("a", calls=64, tokens=80)
        return len(holders("a")) == 2

    try:
        assert len(replica_pids("two", "TextGeneration")) == 2
        assert len(holders("warm")) == 2, "what is preloaded is in every replica before it is asked anything"
        ask("warm")
        # By then the lines are there; until then it is Serve's handle that chooses, and the lines learn of it late.
        ask("a")
        wait_until(lambda: len(holders("a")) == 1)
        for _ in range(4):
            ask("b")
            ask("a")
        assert len(holders("a")) == len(holders("b")) == 1
        wait_until(spread)
        # Below its prefix it answers over HTTP as any other does.
        wait_until(lambda: httpx.get(f"{serve_url}/two/healthz").status_code == 200)
        assert {model["id"] for model in httpx.get(f"{serve_url}/two/v1/models").json()["data"]} == {"a", "b", "warm"}
        assert httpx.get(f"{serve_url}/two/v1/nope").json()["error"]["code"] == "not_found"
    finally:
        serve.delete("two")
