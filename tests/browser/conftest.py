"""A Chromium, and what it is shown: the whole runtime with a model of each family, and one that asks for keys."""

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from serve_app.access.api_keys import AccessSettings, KeySettings, new_key
from serve_app.config.config import IngressSettings
from tests.browser.chromium import Page, browser_page
from tests.support import PROJECT
from tests.support.http_runtimes import FakeRuntime, http_app, saying_hey, status
from tests.support.ports import free_port
from tests.support.until import wait_until


@pytest.fixture
def page() -> Iterator[Page]:
    with browser_page() as page:
        page.look()
        yield page
        page.run("1")  # What has happened meanwhile is read.
        assert page.complaints == []


@pytest.fixture
def screenshots(tmp_path: Path) -> Path:
    """Where they are kept: `make test-browser SCREENSHOTS=docs/images`."""
    return Path(os.environ.get("SCREENSHOTS") or tmp_path)


@pytest.fixture(scope="session")
def url(serve_url: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The runtime with the bundled models, and a small model of each other family."""
    from ray import serve

    from serve_app.app import build
    from tests.support.audio.models import ctc as save_speech
    from tests.support.detection.models import saved as save_detector
    from tests.support.embedding.models import NORMALIZE, pooling, save_encoder, save_modules
    from tests.support.running import CONFIG

    models = tmp_path_factory.mktemp("bundled")
    shutil.copytree(PROJECT / "models", models, dirs_exist_ok=True)
    save_detector(models / "detector", "yolos")
    save_speech(models / "speech", "wav2vec2")
    save_modules(save_encoder(models / "encoder"), pooling("mean"), NORMALIZE)
    serve.run(build(CONFIG.model_copy(update={"models": models, "cache": models.parent / "cache"})), name="home")
    return serve_url


@pytest.fixture
def keyed() -> Iterator[tuple[str, str]]:
    """The URL of a runtime that needs a key, and the key."""
    key, sha256 = new_key()
    runtime = FakeRuntime(saying_hey())
    runtime.settings = IngressSettings(home_page=True)
    runtime.access.update(AccessSettings(keys={"team": KeySettings(sha256=sha256)}))
    runtime.statuses = [status("a-model", "text_generation")]
    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(http_app(runtime), port=port, ws="none", lifespan="off", log_level="critical")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started)
    yield f"http://127.0.0.1:{port}", key
    server.should_exit = server.force_exit = True
    thread.join()
