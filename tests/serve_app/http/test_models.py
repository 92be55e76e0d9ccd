"""The routes that show and change models."""

from dataclasses import asdict

import pytest
from starlette.testclient import TestClient

from deployments.contract.status import AdminResult, Plan, QuarantinedInput, Verb
from deployments.contract.types import Error
from tests.serve_app.http.test_app import error_in
from tests.support.http_runtimes import FakeRuntime, http_app, status


@pytest.mark.parametrize(
    ("method", "path", "verb", "name"),
    [
        ("GET", "/models/m", Verb.SHOW, "m"),
        ("GET", "/models/org/m@2", Verb.SHOW, "org/m@2"),
        ("POST", "/models/org%2Fm/load", Verb.LOAD, "org/m"),
        ("POST", "/models/m/unload", Verb.UNLOAD, "m"),
        ("POST", "/models/m/pin", Verb.PIN, "m"),
        ("POST", "/models/m/unpin", Verb.UNPIN, "m"),
        ("POST", "/models/m/plan", Verb.PLAN, "m"),
    ],
)
def test_each_verb_has_its_route(
    http: TestClient, runtime: FakeRuntime, method: str, path: str, verb: Verb, name: str
) -> None:
    response = http.request(method, path)
    assert runtime.administered == [(verb, name)]
    assert response.status_code == 404
    assert error_in(response)["code"] == "model_not_found"


def test_what_the_configuration_asks_for_in_vain_stands_beside_the_models(
    http: TestClient, runtime: FakeRuntime
) -> None:
    runtime.statuses, runtime.warned = [status("m", "text_generation")], ["families.f.preload: no model 'x'"]
    listed = http.get("/models").json()
    assert ([model["model_id"] for model in listed["models"]], listed["warnings"]) == (["m"], runtime.warned)


def test_an_unknown_verb_is_not_for_a_model(http: TestClient, runtime: FakeRuntime) -> None:
    assert error_in(http.post("/models/m/explode"))["code"] == "method_not_allowed"
    assert runtime.administered == []


class Answering(FakeRuntime):
    async def administer(self, verb: Verb, name: str) -> AdminResult | Error:
        if verb is Verb.PLAN:
            return [Plan("replica", name, False, True, 1, False, 2)]
        return status(name, "text_generation")


def test_statuses_and_plans_are_json_objects() -> None:
    runtime = Answering()
    runtime.statuses = [status("m", "text_generation")]
    with TestClient(http_app(runtime)) as http:
        assert [model["model_id"] for model in http.get("/models").json()["models"]] == ["m"]
        assert http.get("/models/m").json()["state"] == "available"
        (plan,) = http.post("/models/m/plan").json()["plans"]
    assert (plan["replica"], plan["needs_bytes"]) == ("replica", 1)


def test_the_quarantine_is_listed_and_lifted(http: TestClient, runtime: FakeRuntime) -> None:
    entry = QuarantinedInput("d", "m", "text_generation", "request-1", deaths=2, since=1.0, until=2.0)
    runtime.refused["d"] = entry
    assert http.get("/quarantine").json() == {"inputs": [asdict(entry)]}
    assert http.delete("/quarantine/d").json() == asdict(entry)
    assert http.get("/quarantine").json() == {"inputs": []}
    assert error_in(http.delete("/quarantine/d"))["code"] == "not_found"
