"""The examples that use other projects' clients, as they are run by hand."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE, EXAMPLES = Path(__file__).parent, Path(__file__).parents[2] / "examples"


def printed(*command):
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


def test_langchain(url):
    whole, parts, agent = printed(sys.executable, EXAMPLES / "python" / "ask_by_langchain.py", url, "scripted")
    assert whole == parts == "Hello from the script."
    assert agent == "They gave 12 °C in Paris."


def test_llama_index(url):
    file = EXAMPLES / "python" / "ask_by_llama_index.py"
    answer, *sources = printed(sys.executable, file, url, "scripted", "scripted")
    assert answer.startswith("Hello")
    assert len(sources) == 2


@pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")
def test_the_ai_sdk(url, tmp_path):
    (tmp_path / "node_modules").symlink_to(HERE / "node" / "node_modules")
    script = shutil.copy(EXAMPLES / "javascript" / "ask-by-ai-sdk.mjs", tmp_path)
    parts, text = printed("node", script, url, "scripted")
    assert parts == "Hello from the script."
    assert text == "They gave 12 °C in Paris."
