"""deploy/monitoring/ names metrics that there are."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from tests.deployments.metrics.test_meter import documented
from tests.support import PROJECT

FOLDER = PROJECT / "deploy" / "monitoring"
METRIC = re.compile(r"\b(?:inference|text|model|replica|api_key|gpu)_[a-z_]+\b")
LABELS = {"model_load_failed"}
"""What looks like a metric and is an error's code."""


def dashboard_queries() -> dict[str, list[str]]:
    """By panel."""
    panels = json.loads((FOLDER / "dashboard.json").read_text("utf-8"))["panels"]
    return {panel["title"]: [target["expr"] for target in panel["targets"]] for panel in panels}


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / "rules.yml").read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def unknown(query: str) -> set[str]:
    recorded = {name for rule in rules() for name in rule.get("record", "").split(":")}
    known = documented().keys() | recorded | LABELS
    series = {f"{name}{end}" for name in documented() for end in ("_bucket", "_sum", "_count")}
    return {name for name in METRIC.findall(query.replace("ray_", "")) if name not in known | series}


def test_every_query_names_metrics_that_there_are() -> None:
    queries = [query for of_panel in dashboard_queries().values() for query in of_panel]
    queries += [rule["expr"] for rule in rules()]
    assert len(queries) > 25
    assert {query: names for query in queries if (names := unknown(query))} == {}


def test_every_alert_has_a_unit_test() -> None:
    tests = yaml.safe_load((FOLDER / "rules_test.yml").read_text("utf-8"))["tests"]
    tested = {one["alertname"] for test in tests for one in test.get("alert_rule_test", ()) if one["exp_alerts"]}
    assert tested == {rule["alert"] for rule in rules() if "alert" in rule}


def test_both_exporters_are_scraped() -> None:
    config = yaml.safe_load(Path(FOLDER, "prometheus.yml").read_text("utf-8"))
    assert [job["job_name"] for job in config["scrape_configs"]] == ["model-runtime", "ray"]
