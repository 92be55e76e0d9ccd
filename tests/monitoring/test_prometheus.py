"""deploy/monitoring/ under a real Prometheus, while the runtime answers requests: `make test-monitoring`."""

import json
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from serve_app.client import ModelRuntimeClient
from tests.monitoring.test_files import FOLDER, dashboard_queries, rules
from tests.support.ports import free_port
from tests.support.running import Running
from tests.support.until import wait_until

pytestmark = [
    pytest.mark.skipif("MONITORING" not in os.environ, reason="needs Debian's Prometheus: make test-monitoring"),
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs Debian's prometheus"),
]

MISSION = {"inference_latency_avg_ms", "gpu_utilization_percent", "inference_requests_total"}
"""Names that were given, whatever promtool says of them."""


@pytest.fixture(scope="module")
def load(runtime: Running) -> Iterator[None]:
    """Pictures and texts are asked for until the tests end."""
    over = threading.Event()

    def ask() -> None:
        with ModelRuntimeClient(runtime.url) as client:
            while not over.wait(0.1):
                client.classify("image", runtime.picture)
                client.generate("text", "Once", 8)

    asking = threading.Thread(target=ask)
    asking.start()
    yield
    over.set()
    asking.join()


@pytest.fixture(scope="module")
def prometheus(runtime: Running, load: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its URL, started as docs/metrics.md says."""
    import ray

    node, port = ray.nodes()[0], free_port()
    folder = tmp_path_factory.mktemp("ray")
    targets = [f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"]
    (folder / "prom_metrics_service_discovery.json").write_text(json.dumps([{"targets": targets}]))
    environment = os.environ | {"PROMETHEUS_PORT": str(port), "RAY_FOLDER": str(folder)}
    command = [str(FOLDER / "start.sh"), urlsplit(runtime.url).netloc]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        url = f"http://127.0.0.1:{port}"
        assert url in started.stdout.readline()
        wait_until(lambda: _is_ready(url), "Prometheus")
        yield url
        started.send_signal(signal.SIGTERM)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready").status_code == 200
    except httpx.TransportError:
        return False


def asked(url: str, query: str) -> list[Any]:
    """The samples of a query that are numbers."""
    answer = httpx.get(f"{url}/api/v1/query", params={"query": query}).json()
    assert answer["status"] == "success", answer
    return [sample for sample in answer["data"]["result"] if sample["value"][1] != "NaN"]


def test_every_query_of_the_dashboard_returns_data(prometheus: str) -> None:
    empty: dict[str, str] = {}

    def all_answered() -> bool:
        empty.clear()
        for title, queries in dashboard_queries().items():
            empty.update({query: title for query in queries if not asked(prometheus, query)})
        return not empty

    try:
        wait_until(all_answered, timeout_s=180, every_s=2)
    except AssertionError:
        raise AssertionError(f"no data for {empty}") from None


def test_the_rules_are_evaluated_and_no_alert_fires(prometheus: str) -> None:
    records = [rule["record"] for rule in rules() if "record" in rule]
    wait_until(lambda: all(asked(prometheus, record) for record in records), f"{records}", timeout_s=180)
    alerts = httpx.get(f"{prometheus}/api/v1/alerts").json()["data"]["alerts"]
    assert [alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"] == []


@pytest.mark.parametrize("arguments", [("check", "rules", "rules.yml"), ("test", "rules", "rules_test.yml")])
def test_promtool_passes_the_rules(arguments: tuple[str, ...]) -> None:
    subprocess.run(["promtool", *arguments], cwd=FOLDER, check=True)


def test_promtool_passes_the_metrics_but_for_the_given_names(runtime: Running, load: None) -> None:
    text = httpx.get(f"{runtime.url}/metrics").text
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    complaints = (checked.stdout + checked.stderr).splitlines()
    assert [line for line in complaints if line.split()[0] not in MISSION] == []


def test_a_key_is_put_where_prometheus_reads_it(tmp_path: Path) -> None:
    """The script's own configuration, with a program in Prometheus' place that prints it."""
    key, program = tmp_path / "key", tmp_path / "prometheus"
    key.write_text("mr-secret")
    program.write_text('#!/bin/sh\nfor given; do case $given in --config.file=*) cat "${given#*=}";; esac; done\n')
    program.chmod(0o700)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = [str(FOLDER / "start.sh"), "10.0.0.1:80", str(key)]
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert re.search(rf"^ +authorization: {{credentials_file: {re.escape(str(key))}}}$", shown, re.MULTILINE)
    assert 'targets: ["10.0.0.1:80"]' in shown
    assert "mr-secret" not in shown
