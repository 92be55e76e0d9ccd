"""The wheel in an empty environment, used from a folder outside the checkout: `make test-wheel` (some minutes)."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
WHEEL = os.environ.get("WHEEL")
CLIENT = """
import sys
from serve_app.client import ModelRuntimeClient

with ModelRuntimeClient(sys.argv[1]) as client:
    print(client.generate("gpt-nano", "ROMEO:", max_tokens=3).generated_text)
"""

pytestmark = pytest.mark.skipif(WHEEL is None, reason="needs a wheel: make test-wheel")


@pytest.fixture(scope="module")
def bin_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that holds the wheel and its dependencies, nothing of the checkout."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    assert WHEEL is not None
    install = [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    wanted = ["-c", str(PROJECT / "constraints.txt"), WHEEL]
    # Without PYTHONPATH: pip would find the checkout, and install nothing.
    subprocess.run([*install, *wanted], check=True, cwd=folder, env=environment(folder))
    return folder / "bin"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model repository and packages of our names, first on Python's path as a Ray job's is."""
    place = tmp_path_factory.mktemp("elsewhere")
    for name in ("deployments", "serve_app"):
        (place / name).mkdir()
        (place / name / "__init__.py").write_text("mine = True\n")
    shutil.copytree(PROJECT / "models" / "gpt-nano", place / "repository" / "gpt-nano")
    return place


def environment(place: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(place)}


@pytest.fixture(scope="module")
def url(bin_folder: Path, place: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(bin_folder / "model-runtime"), "serve", "--models", "repository", "--port", str(port)]
    with subprocess.Popen(command, cwd=place, env=environment(place), stdout=subprocess.PIPE, text=True) as serving:
        assert serving.stdout is not None
        lines = []
        for line in serving.stdout:
            lines.append(line)
            if " is ready after " in line:
                break
        else:
            pytest.fail("".join(lines))
        yield f"http://127.0.0.1:{port}"
        serving.send_signal(signal.SIGINT)
        serving.communicate(timeout=60)
        assert serving.returncode == 0


def run(place: Path, *command: object) -> str:
    return subprocess.run(
        list(map(str, command)), cwd=place, env=environment(place), check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def test_nothing_is_imported_from_the_checkout(bin_folder: Path, place: Path) -> None:
    program = "import serve_app.app, deployments; print(serve_app.app.__file__, deployments.mine)"
    where, mine = run(place, bin_folder / "python", "-c", program).split()
    assert Path(where).is_relative_to(bin_folder.parent)
    assert mine == "True"
    assert sys.prefix != str(bin_folder.parent)


def test_the_command_line_and_the_client_reach_a_runtime_that_serves_a_folder(
    bin_folder: Path, place: Path, url: str
) -> None:
    assert "gpt-nano" in run(place, bin_folder / "model-runtime", "models", "--url", url)
    body = json.dumps({"TextGeneration": {"model_id": "gpt-nano", "prompt": "ROMEO:", "max_tokens": 3}})
    assert "TextGenerationResult" in run(place, bin_folder / "model-runtime", "infer", "json", body, "--url", url)
    text = run(
        place, bin_folder / "model-runtime", "infer", "text", "gpt-nano", "ROMEO:", "--max-tokens", "3", "--url", url
    )
    assert text == run(place, bin_folder / "python", "-c", CLIENT, url)
