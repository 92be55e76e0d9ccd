"""The session's one Ray and the application on it: five families, eight models, a picture.

What takes long to import is imported by the fixture that uses it: a run of a few tests starts at once.
"""

import gc
import logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from deployments.engines import measuring
from tests.support import PROJECT
from tests.support.ports import free_port
from tests.support.running import CONFIG, Running

if TYPE_CHECKING:
    from tests.support.watching.otlp import Receiver

gc.disable()  # until everything is imported: a fifth of the time of collection went into looking at what stays
collect_ignore = ["clients"]
"""What `make test-clients` runs in an environment of its own."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--image-mutations", type=int, default=150, help="of each image format; 20,000 in make fuzz-image")
    parser.addoption("--audio-mutations", type=int, default=200, help="of each sound format; 20,000 in make fuzz-audio")


# A busy machine is no failure.
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=300)
hypothesis.settings.register_profile("fast", deadline=None, max_examples=25)
hypothesis.settings.load_profile("thorough")


def pytest_configure(config: pytest.Config) -> None:
    """Sets what libraries read from the environment when they are imported, here and in child processes."""
    if not hasattr(config, "workerinput"):  # the process that starts pytest-xdist's workers, or the only one
        os.environ["CONVERTED_MODELS"] = tempfile.mkdtemp(prefix="converted-models-")
    # Threads of OpenMP that wait for work leave their core to others at once. They would keep it for some milliseconds,
    # and where tests, replicas and compilers share two cores, each operation would take that long.
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Serve's threads outlive the shutdown and would start another Ray.
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
    # An ingress that is to go waits for load balancers to notice. There is none.
    os.environ["RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"] = "0"
    # A shell's background jobs ignore SIGINT, and so would all that they start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Nothing here asks an authority of the Internet. To read the certificates of all takes each client 20 ms.
    os.environ["SSL_CERT_DIR"] = os.devnull
    # Which of two ways is the faster one decides nothing here.
    measuring.MEASURING_S = 0.05
    # So that replicas find the families that live in the tests.
    os.environ["PYTHONPATH"] = str(PROJECT)


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ["CONVERTED_MODELS"], ignore_errors=True)


@pytest.hookimpl(tryfirst=True)  # before pytest looks at `-m`, and before pytest-xdist at groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What uses the session's Ray is marked so. Of pytest-xdist's workers one starts all Rays, and one HAProxy."""
    for item in items:
        fixtures: Collection[str] = getattr(item, "fixturenames", ())
        if "session_ray" in fixtures:
            item.add_marker(pytest.mark.ray)
        if item.get_closest_marker("ray") or item.get_closest_marker("cluster"):
            item.add_marker(pytest.mark.xdist_group("ray"))
        elif "front" in fixtures:
            item.add_marker(pytest.mark.xdist_group("front"))


def pytest_collection_finish() -> None:
    """The modules that are imported by now stay: the garbage collector never looks at them."""
    gc.freeze()
    gc.enable()


_modules = 0


def pytest_runtest_logfinish() -> None:
    """Nor at those that tests have imported, once they are many. Some libraries collect whenever a model is closed."""
    global _modules
    if len(sys.modules) > _modules + 100:
        _modules = len(sys.modules)
        gc.freeze()


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of every kind: good, nested, with versions, broken, too large."""
    from tests.support.audio.models import ctc as save_speech
    from tests.support.detection.models import saved as save_detector
    from tests.support.embedding.models import NORMALIZE, pooling, save_encoder, save_modules
    from tests.support.text_models import CHATML, save_chat_model
    from tests.support.tiny_models import save_image_model, save_text_model

    root = tmp_path_factory.mktemp("models")
    save_text_model(root / "text")
    save_chat_model(root / "team" / "nested", CHATML)
    save_text_model(root / "versioned" / "1")
    save_text_model(root / "versioned" / "2")
    save_image_model(root / "image")
    save_detector(root / "detector", "yolos")
    save_modules(save_encoder(root / "encoder"), pooling("mean"), NORMALIZE)
    save_speech(root / "speech", "wav2vec2")
    save_text_model(root / "broken")
    (root / "broken" / "model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}      garbage")
    save_text_model(root / "huge")
    (root / "huge" / "model.yaml").write_text("memory_mb: 1000000\n")
    return root


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.support.tiny_models import save_picture

    return save_picture(tmp_path_factory.mktemp("pictures") / "picture.png")


@pytest.fixture(scope="session")
def collector() -> "Iterator[Receiver]":
    """Gets the spans of every request that the session's runtime answers."""
    from tests.support.watching.otlp import receiving

    with receiving() as receiver:
        os.environ.update(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, OTEL_BSP_SCHEDULE_DELAY="100")
        yield receiver


@pytest.fixture(scope="session")
def session_ray(collector: "Receiver") -> Iterator[None]:
    """Ray with more CPUs than there are, and one GPU that is only a number; the fast profile in front."""
    import ray.serve

    from serve_app.http.haproxy import haproxy_environment
    from serve_app.local_ray import init_on_loopback

    with tempfile.TemporaryDirectory(prefix="model-runtime-") as private:  # pytest's are too deep for a socket's name
        # For the processes that Ray starts. This one has imported Serve: its handles can be used outside an event loop.
        os.environ.update(haproxy_environment(Path(private), CONFIG))
        init_on_loopback(
            num_cpus=16,
            num_gpus=1,
            object_store_memory=100 * 2**20,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        yield
        # Serve's threads outlive Ray and would complain after pytest's last line.
        logging.getLogger("ray.serve").setLevel(logging.CRITICAL + 1)
        ray.shutdown()


@pytest.fixture(scope="session")
def serve_url(session_ray: None) -> Iterator[str]:
    """Serve, with nothing deployed yet."""
    from ray import serve

    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config={"log_level": "WARNING"})
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()


@pytest.fixture(scope="session")
def runtime(serve_url: str, repository: Path, picture: Path) -> Running:
    from ray import serve

    from tests.support.echo import PATIENT, build

    cache, grpc_port = repository.parent / "cache", free_port()
    updates = {"models": repository, "cache": cache, "grpc_port": grpc_port, "families": {**CONFIG.families, **PATIENT}}
    watched = CONFIG.ingress.model_copy(update={"traces": True, "access_log": True})
    config = CONFIG.model_copy(update={**updates, "ingress": watched})
    handle = serve.run(build(config), name="model-runtime")
    return Running(serve_url, handle, repository, picture, config)
