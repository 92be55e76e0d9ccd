"""lm-evaluation-harness on a local task: scores over HTTP are those of its own transformers backend."""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import lm_eval
import pytest
from lm_eval.tasks import TaskManager

PROJECT = Path(__file__).parents[2]
MODEL = PROJECT / "models" / "gpt-nano"
READY_S = 300
QUESTIONS = [
    ("ROMEO:\nBut soft, what light through yonder window", [" breaks", " eats", " the"]),
    ("KING RICHARD:\nA horse, a horse, my kingdom for a", [" horse", " day", " crown"]),
    ("First Citizen:\nBefore we proceed any further, hear me", [" speak", " not", " and go"]),
    ("JULIET:\nO Romeo, Romeo, wherefore art thou", [" Romeo", " here", " my lord"]),
    ("HAMLET:\nTo be, or not to be, that is the", [" question", " answer", " man"]),
]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A runtime of its own with the bundled models."""
    folder = tmp_path_factory.mktemp("served")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = folder / "runtime.json"
    config.write_text(json.dumps({"models": str(PROJECT / "models"), "cache": str(folder / "cache")}))
    command = [PROJECT / ".venv" / "bin" / "model-runtime", "serve", "--config", config, "--port", str(port)]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        give_up = time.monotonic() + READY_S
        while not ready(port):
            if server.poll() is not None or time.monotonic() > give_up:
                pytest.fail((folder / "log").read_text()[-2000:])
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)


def ready(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as reply:
            return reply.status == 200
    except OSError:
        return False


@pytest.fixture
def task(tmp_path):
    """The folder of a multiple-choice task whose questions lie in a JSON file."""
    rows = [{"question": question, "choices": choices, "answer": 0} for question, choices in QUESTIONS]
    data = tmp_path / "questions.json"
    data.write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "lines.yaml").write_text(
        f"task: lines\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {data}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: '{{question}}'\n"
        "doc_to_choice: '{{choices}}'\ndoc_to_target: answer\ntarget_delimiter: ''\n"
        "metric_list:\n  - metric: acc\n"
    )
    return tmp_path


def scores(model, arguments, task):
    """The accuracy, and the log-likelihood of every choice."""
    results = lm_eval.simple_evaluate(
        model=model,
        model_args=arguments,
        tasks=["lines"],
        task_manager=TaskManager(include_path=str(task), include_defaults=False),
        batch_size=1,
        bootstrap_iters=0,
        log_samples=True,
    )
    likelihoods = [choice[0][0] for sample in results["samples"]["lines"] for choice in sample["resps"]]
    return results["results"]["lines"]["acc,none"], likelihoods


def test_scores_over_http_are_those_of_the_library(served, task, monkeypatch):
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    expected = scores("hf", {"pretrained": str(MODEL), "dtype": "float32", "device": "cpu"}, task)
    over_http = scores(
        "local-completions",
        {"model": "gpt-nano", "base_url": f"{served}/completions", "tokenizer": str(MODEL), "num_concurrent": 1},
        task,
    )
    assert over_http[0] == pytest.approx(expected[0], abs=1e-3)
    assert over_http[1] == pytest.approx(expected[1], abs=1e-3)
    assert len(expected[1]) == sum(len(choices) for _, choices in QUESTIONS)
