"""The examples in other languages, built and run against the HTTP routes with scripted models."""

import shutil
import socket
import subprocess
import threading
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest
import uvicorn

from deployments.contract.chunk import Chunk
from deployments.contract.errors import ModelNotFound, quoted
from deployments.contract.types import (
    ImageClassification,
    ImageClassificationResult,
    InferRequest,
    TextGeneration,
    TextGenerationResult,
)
from deployments.families.image_classification.family import SAMPLE_IMAGE
from deployments.replica.calls import Reply
from tests.support import PROJECT
from tests.support.http_runtimes import FakeRuntime, http_app

EXAMPLES = PROJECT / "examples"
CRATES = Path("/usr/share/cargo/registry")


async def script(request: InferRequest) -> AsyncGenerator[Reply, None]:
    if request.model_id == "no-such-model":
        raise ModelNotFound(f"no model {quoted(request.model_id)}")
    if isinstance(request, ImageClassification):
        assert request.image_data == SAMPLE_IMAGE.read_bytes()
        yield ImageClassificationResult(class_labels=["airplane", "bird"], probabilities=[0.75, 0.25])
        return
    assert isinstance(request, TextGeneration)
    for number, piece in enumerate(("But é", "\nsoft!"), 1):
        yield Chunk(piece, number)
    yield TextGenerationResult(generated_text="But é\nsoft!", finish_reason="length")


@pytest.fixture
def url() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(http_app(FakeRuntime(script)), lifespan="off", log_level="critical")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


def printed(command: list[str | Path], folder: Path) -> list[str]:
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


@pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")
def test_javascript_classifies_streams_and_sends_a_batch(url: str) -> None:
    lines = printed(["node", "example.mjs", url, SAMPLE_IMAGE], EXAMPLES / "javascript")
    text = ["But é", "soft!"]
    assert lines == ["airplane 0.750", "bird 0.250", *text, "(length)", *text, "model_not_found"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(
    shutil.which("cargo") is None or not list(CRATES.glob("ureq-*")),
    reason="cargo and Debian's librust-ureq-dev, librust-serde-json-dev, librust-bincode-dev are not installed",
)
def test_rust_classifies_in_bincode_and_streams(url: str, tmp_path: Path) -> None:
    """Built in a folder of the test's own: there is no lock file, since Debian's versions are the system's."""
    folder = tmp_path / "rust"
    shutil.copytree(EXAMPLES / "rust", folder, ignore=shutil.ignore_patterns("target", "Cargo.lock"))
    lines = printed(["cargo", "run", "--quiet", "--offline", "--", url, SAMPLE_IMAGE], folder)
    text = ["But é", "soft!"]
    assert lines == ["airplane 0.750", "bird 0.250", *text, "error: no model 'no-such-model'", *text, "(length)"]
