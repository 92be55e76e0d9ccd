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
    ObjectDetection,
    ObjectDetectionResult,
    SpeechToText,
    SpeechToTextResult,
    TextEmbedding,
    TextEmbeddingResult,
    TextGeneration,
    TextGenerationResult,
)
from deployments.families.image_classification.family import SAMPLE_IMAGE
from deployments.replica.calls import Reply
from tests.examples.pages import PAGE_URL, programs
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
    if isinstance(request, ObjectDetection):
        yield ObjectDetectionResult(class_labels=["RBC", "WBC"], scores=[0.9, 0.8], boxes=[(0, 0, 1, 1), (1, 1, 2, 2)])
        return
    if isinstance(request, SpeechToText):
        yield SpeechToTextResult(text="seven")
        return
    if isinstance(request, TextEmbedding):
        yield TextEmbeddingResult(embeddings=[[0.0, 0.6, 0.8]] * len(request.texts))
        return
    assert isinstance(request, TextGeneration)
    for number, piece in enumerate(("But é", "\nsoft!"), 1):
        yield Chunk(piece, number)
    yield TextGenerationResult(generated_text="But é\nsoft!", finish_reason="length")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(http_app(FakeRuntime(script)), ws="none", lifespan="off", log_level="critical")
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


@pytest.fixture(scope="module")
def rust(url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built programs: the example, and those of docs/calling.md by their families' names.

    Built in a folder of the test's own: there is no lock file, since Debian's versions are the system's.
    """
    if shutil.which("cargo") is None or not list(CRATES.glob("ureq-*")):
        pytest.skip(
            "cargo and Debian's librust-ureq-dev, librust-serde-json-dev, librust-bincode-dev are not installed"
        )
    folder = tmp_path_factory.mktemp("cargo") / "rust"
    shutil.copytree(EXAMPLES / "rust", folder, ignore=shutil.ignore_patterns("target", "Cargo.lock"))
    (folder / "src" / "bin").mkdir()
    for family, languages in programs().items():
        (folder / "src" / "bin" / f"{family}.rs").write_text(languages["rust"].replace(PAGE_URL, url))
    printed(["cargo", "build", "--quiet", "--offline"], folder)
    return folder / "target" / "debug"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.xdist_group("cargo")
def test_rust_classifies_in_bincode_and_streams(url: str, rust: Path) -> None:
    lines = printed([rust / "model-runtime-example", url, SAMPLE_IMAGE], rust)
    text = ["But é", "soft!"]
    assert lines == ["airplane 0.750", "bird 0.250", *text, "error: no model 'no-such-model'", *text, "(length)"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.xdist_group("cargo")
def test_the_programs_of_the_page_say_in_rust_what_is_answered(rust: Path, tmp_path: Path) -> None:
    for file in ("photo.jpg", "smear.jpg", "speech.wav"):
        shutil.copy(SAMPLE_IMAGE, tmp_path / file)
    assert {family: printed([rust / family], tmp_path) for family in programs()} == {
        "image_classification": ["airplane"],
        "object_detection": ["2"],
        "speech_to_text": ["seven"],
        "text_embedding": ["3"],
        "text_generation": ["But é", "soft!"],
    }
