"""The sync client is the async one, waited for: from any thread, interrupted, forked, and never closed."""

import inspect
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deployments.contract.errors import ModelNotFound, Unavailable
from deployments.contract.types import Error, InferRequest, ObjectDetectionResult, TextEmbedding, TextEmbeddingResult
from serve_app.client import AsyncModelRuntimeClient, ModelRuntimeClient
from tests.support import PROJECT, sweep
from tests.support.http_server import RESULT, STALLED, Answering
from tests.support.ports import free_port

PUBLIC = {
    name for name, method in vars(AsyncModelRuntimeClient).items() if inspect.isfunction(method) and name[0] != "_"
}


def interrupt_once(event: threading.Event) -> None:
    """Sends SIGINT to this process, as Ctrl-C does, when the event comes."""

    def interrupt() -> None:
        event.wait()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=interrupt).start()


def test_both_clients_have_the_same_methods_with_the_same_arguments() -> None:
    for name in PUBLIC:
        sync, asynchronous = getattr(ModelRuntimeClient, name), getattr(AsyncModelRuntimeClient, name)
        assert list(inspect.signature(sync).parameters) == list(inspect.signature(asynchronous).parameters)
        assert sync.__doc__ == asynchronous.__doc__ or name == "close"
        assert not inspect.iscoroutinefunction(sync)


def test_an_answer_is_returned_and_an_error_is_raised_by_its_code(server: Answering) -> None:
    with ModelRuntimeClient(server.url) as client:
        assert client.generate("m", "p", max_tokens=3) == RESULT
        server.answer = Error(message="no model 'm'", code="model_not_found")
        with pytest.raises(ModelNotFound, match="no model 'm'"):
            client.generate("m", "p", max_tokens=3)


def test_an_answer_of_another_variant_is_unavailable(server: Answering) -> None:
    with ModelRuntimeClient(server.url) as client, pytest.raises(Unavailable, match="expected ImageClassification"):
        client.classify("m", b"image")


def test_objects_are_asked_for_with_their_threshold_and_number(server: Answering, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"picture")
    server.answer = ObjectDetectionResult(class_labels=["cat"], scores=[0.5], boxes=[(0, 0, 1, 1)])
    with ModelRuntimeClient(server.url) as client:
        assert client.detect("m", tmp_path / "a.png", threshold=0, top_k=1) == server.answer


def test_texts_are_embedded_one_or_several(server: Answering) -> None:
    result, asked = TextEmbeddingResult(embeddings=[[0.5, 1.0]]), list[InferRequest]()

    def script(request: InferRequest) -> TextEmbeddingResult:
        asked.append(request)
        return result

    server.script = script
    with ModelRuntimeClient(server.url) as client:
        assert client.embed("m", "a text") == result
        assert client.embed("m", ("a", "b"), dimensions=2, input_type="query") == result
    assert asked == [
        TextEmbedding(model_id="m", texts=["a text"]),
        TextEmbedding(model_id="m", texts=["a", "b"], dimensions=2, input_type="query"),
    ]


def test_an_image_may_be_a_path(tmp_path: Path) -> None:
    with ModelRuntimeClient() as client, pytest.raises(FileNotFoundError):
        client.classify("m", tmp_path / "missing.jpg")


def test_a_runtime_that_is_not_there_is_unavailable_with_the_reason() -> None:
    with (
        ModelRuntimeClient(f"http://127.0.0.1:{free_port()}") as client,
        pytest.raises(Unavailable, match=r"the runtime cannot be reached: \w+"),
    ):
        client.models()


async def test_the_sync_client_works_where_an_event_loop_runs(server: Answering) -> None:
    with ModelRuntimeClient(server.url) as client:
        assert client.generate("m", "p", max_tokens=3) == RESULT


def test_threads_share_one_client(server: Answering) -> None:
    with ModelRuntimeClient(server.url) as client, ThreadPoolExecutor(8) as threads:
        answers = threads.map(lambda number: client.generate("m", str(number), max_tokens=3), range(40))
        assert list(answers) == [RESULT] * 40


@pytest.mark.alone
def test_an_interrupt_cancels_the_request_and_leaves_the_client_usable(server: Answering) -> None:
    interrupt_once(server.arrived)
    with ModelRuntimeClient(server.url) as client:
        with pytest.raises(KeyboardInterrupt):
            client.generate("m", STALLED, max_tokens=3)
        assert server.cancelled.wait(30)
        assert client.generate("m", "p", max_tokens=3) == RESULT


def test_a_closed_client_refuses_calls_and_may_be_closed_again(server: Answering) -> None:
    client = ModelRuntimeClient(server.url)
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.models()


CONNECT = "import sys; from serve_app.client import ModelRuntimeClient as Client; client = Client(sys.argv[1])"


def run(program: str, url: str, *options: str) -> tuple[int, str]:
    """The exit status and what was written to stderr."""
    command = [sys.executable, *options, "-c", program, url]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False)
    return ended.returncode, ended.stderr


@pytest.mark.parametrize(
    "use",
    sweep(
        [
            "client.generate('m', 'p', max_tokens=3)",
            "stream = client.generate_stream('m', 'stall', max_tokens=3); next(iter(stream))",
        ],
        "client.generate('m', 'p', max_tokens=3)",
    ),
)
def test_a_process_ends_silently_though_its_client_is_not_closed(server: Answering, use: str) -> None:
    assert run(f"{CONNECT}; {use}", server.url) == (0, "")


def test_a_closed_client_leaves_nothing_open(server: Answering) -> None:
    program = f"{CONNECT}; client.generate('m', 'p', max_tokens=3); client.close()"
    assert run(program, server.url, "-X", "dev", "-W", "error") == (0, "")


FORK = """
import os, sys, warnings
from serve_app.client import ModelRuntimeClient
warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads, since Python 3.12
client = ModelRuntimeClient(sys.argv[1])
client.models()
child = os.fork()
if child == 0:
    assert client.models() == [] == ModelRuntimeClient(sys.argv[1]).models()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert client.models() == []
client.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a POSIX call")
def test_a_forked_child_has_connections_of_its_own(server: Answering) -> None:
    assert run(FORK, server.url) == (0, "")
