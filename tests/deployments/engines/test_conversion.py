"""A converted encoder takes the place of transformers' where it gives the same vectors and is faster, only there."""

import gc
import importlib.util
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from deployments.contract.types import TextEmbedding
from deployments.engines import conversion
from deployments.engines.embedding import engine as embedding
from deployments.engines.embedding.encoder import EagerEncoder, load_encoder
from deployments.engines.embedding.engine import TextEmbeddingEngine
from deployments.system.artifact_cache import ArtifactCache
from deployments.system.worker_process import RequestFailed, WorkerFailed
from tests.support.embedding.models import NORMALIZE, TEXTS, pooling, reference, save_encoder, save_modules

PATIENCE_S = 240


@pytest.fixture
def cache(tmp_path: Path) -> ArtifactCache:
    return ArtifactCache(tmp_path / "cache", 1 << 30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_modules(save_encoder(tmp_path_factory.mktemp("encoder")), pooling("mean"), NORMALIZE)


def settled(folder: Path, cache: ArtifactCache) -> TextEmbeddingEngine:
    engine = TextEmbeddingEngine.load(folder, cores=1, cache=cache)
    assert engine.settled.wait(PATIENCE_S)
    return engine


def vectors(engine: TextEmbeddingEngine) -> np.ndarray:
    answers = engine.embed(engine.encode(TextEmbedding(model_id="m", texts=TEXTS)))
    return np.stack([answer for answer in answers if isinstance(answer, np.ndarray)])


class Pretended(EagerEncoder):
    """Stands for a converted encoder, which adds something to every value."""

    def __init__(self, folder: Path, more: float) -> None:
        super().__init__(load_encoder(folder, "cpu", None))
        self.more = more

    def __call__(self, arguments: Mapping[str, torch.Tensor]) -> torch.Tensor:
        hidden = super().__call__(arguments)
        return hidden + torch.arange(hidden.shape[-1]) * self.more


@pytest.fixture
def converts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes each conversion, in place of which nothing is written."""
    done: list[str] = []
    monkeypatch.setattr(conversion, "convert_in_child", lambda convert, folder, *given: done.append(folder.name))
    return done


def gains(monkeypatch: pytest.MonkeyPatch, times: float) -> None:
    seconds = iter([times, 1.0] * 9)
    monkeypatch.setattr(conversion, "fastest_of", lambda run: next(seconds))


class Told:
    """An engine that is told how it runs."""

    def __init__(self) -> None:
        self.settled, self.notes = threading.Event(), list[str]()

    def fault(self, converted: Path) -> None: ...

    def use(self, converted: Path | None, note: str) -> None:
        self.notes.append(note)


def test_what_an_older_program_converted_is_converted_anew(
    tmp_path: Path, cache: ArtifactCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, done = tmp_path / "program.py", list[str]()
    (tmp_path / "config.json").write_text("{}")

    def convert_here(convert: Callable[..., str], folder: Path, details: Sequence[object], place: Path) -> None:
        place.mkdir(exist_ok=True)
        done.append(convert())

    monkeypatch.setattr(conversion, "convert_in_child", convert_here)
    for answer in ("old", "old", "newer"):
        program.write_text(f"def convert(): return {answer!r}")
        spec = importlib.util.spec_from_file_location("program", program)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        engine = Told()
        made = conversion.Conversion(cache, tmp_path, module.convert, (), lambda place: place)
        conversion.convert_in_background(engine, made)
        assert engine.settled.wait(PATIENCE_S)
        assert engine.notes == ["OpenVINO"]
    assert done == ["old", "newer"]


@pytest.mark.compiles
def test_it_answers_from_then_on_and_later_loads_find_it(
    folder: Path, cache: ArtifactCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    gains(monkeypatch, 2.0)  # a tiny model may be as fast with torch
    known = reference(folder, TEXTS)
    engine = settled(folder, cache)
    assert engine.runtime_info[-1] == "forward: OpenVINO, at most 4096 tokens, on 1 thread"
    np.testing.assert_allclose(vectors(engine), known, atol=1e-5, rtol=1e-5)
    monkeypatch.setattr(conversion, "convert_in_child", None)
    assert "OpenVINO" in settled(folder, cache).runtime_info[-1]


def test_until_then_and_where_there_is_no_cache_torch_answers(folder: Path) -> None:
    engine = TextEmbeddingEngine.load(folder, cores=1)
    assert engine.settled.is_set()
    engine.settled.clear()
    assert engine.runtime_info[-1] == "forward: PyTorch, eager, being converted, at most 4096 tokens, on 1 thread"


@pytest.mark.parametrize(
    ("more", "times", "why"),
    [(1e-3, 2.0, "converted it gives other vectors"), (0.0, 1.0, "converted it is no faster"), (0.0, 2.0, None)],
)
def test_one_that_gives_other_vectors_or_is_no_faster_is_not_used_and_nothing_is_converted_twice(
    folder: Path,
    cache: ArtifactCache,
    converts: list[str],
    monkeypatch: pytest.MonkeyPatch,
    more: float,
    times: float,
    why: str | None,
) -> None:
    gains(monkeypatch, times)
    monkeypatch.setattr(embedding, "OpenVinoEncoder", PretendedFile(folder, more))
    for _ in range(2):
        engine = settled(folder, cache)
        note = "OpenVINO" if why is None else f"PyTorch, eager ({why})"
        assert engine.runtime_info[-1].startswith(f"forward: {note}, at most")
    assert len(converts) == 1


class PretendedFile:
    def __init__(self, folder: Path, more: float) -> None:
        self.folder, self.more = folder, more

    def __call__(self, file: Path, cores: int) -> Pretended:
        return Pretended(self.folder, self.more)


@pytest.mark.parametrize(
    ("failure", "note", "attempts"),
    [
        (RequestFailed("an operation is not known"), "it cannot be converted", 1),
        (WorkerFailed("out of memory"), "it cannot be converted now", 2),
        (OSError("the disk is full"), "it cannot be converted now", 2),
    ],
)
def test_a_failure_that_may_pass_is_tried_again_and_another_is_not(
    folder: Path,
    cache: ArtifactCache,
    monkeypatch: pytest.MonkeyPatch,
    failure: Exception,
    note: str,
    attempts: int,
) -> None:
    tried = []

    def fails(*given: object) -> None:
        tried.append(given)
        raise failure

    monkeypatch.setattr(conversion, "convert_in_child", fails)
    for _ in range(2):
        assert settled(folder, cache).runtime_info[-1].startswith(f"forward: PyTorch, eager ({note}), at most")
    assert len(tried) == attempts


def test_an_engine_that_is_closed_meanwhile_frees_its_memory(
    folder: Path, cache: ArtifactCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    engines: list[TextEmbeddingEngine] = []

    def closes(*given: object) -> None:
        gone = weakref.ref(engines.pop())
        gc.collect()
        seen.append(gone() is None)
        raise OSError

    monkeypatch.setattr(conversion, "convert_in_child", closes)
    with conversion._one_at_a_time:  # it waits until the test has let go
        engines.append(TextEmbeddingEngine.load(folder, cores=1, cache=cache))
        done = engines[0].settled
    assert done.wait(PATIENCE_S)
    assert seen == [True]
