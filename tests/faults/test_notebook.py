"""`make test-faults`: Ray's GCS dies in a runtime that `start_or_join` has started; the notebook's process goes on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from deployments.families.table import FAMILIES
from tests.faults.served import Served, kill
from tests.support import PROJECT
from tests.support.ports import free_port
from tests.support.tiny_models import save_text_model

pytestmark = [
    pytest.mark.skipif("FAULTS" not in os.environ, reason="make test-faults: minutes"),
    pytest.mark.timeout(900),
]

ASKS = """
import sys
from deployments.contract.errors import Unavailable
from serve_app.config.config import RuntimeConfig
from serve_app.local import start_or_join
config = RuntimeConfig.model_validate_json(sys.argv[2])
for line in sys.stdin:
    text = None
    while text is None:
        try:
            with start_or_join(int(sys.argv[1]), config) as client:
                text = client.generate("text", "a", 8).generated_text
        except Unavailable as failure:
            print(failure, flush=True)
    print("answer:", text.encode(), flush=True)
"""
NONE = {"autoscaling": {"min_replicas": 0, "max_replicas": 1}, "num_cpus": 0}


def test_a_notebook_outlives_the_end_of_ray_and_is_answered_again(tmp_path: Path) -> None:
    save_text_model(tmp_path / "models" / "text")
    families = {family.name: NONE for family in FAMILIES}
    config = json.dumps({"models": str(tmp_path / "models"), "families": families})
    port, pipe = free_port(), subprocess.PIPE
    command = [sys.executable, "-c", ASKS, str(port), config]
    with subprocess.Popen(command, cwd=PROJECT, stdin=pipe, stdout=pipe, text=True) as notebook:
        first = asked(notebook)
        served = Served(notebook, f"http://127.0.0.1:{port}", tmp_path / "none")
        victim = served.part("gcs_server")
        assert victim
        kill(victim)
        victim.wait(10)
        assert asked(notebook) == first
        started = psutil.Process(notebook.pid).children(recursive=True)
        notebook.kill()
    _, alive = psutil.wait_procs(started, timeout=60)
    assert [one.cmdline() for one in alive] == []


def asked(notebook: "subprocess.Popen[str]") -> str:
    """Its answer. What the runtime prints comes before."""
    assert notebook.stdin
    assert notebook.stdout
    notebook.stdin.write("ask\n")
    notebook.stdin.flush()
    for line in notebook.stdout:
        if line.startswith("answer:"):
            return line
    raise AssertionError(f"it has ended: {notebook.wait()}")
