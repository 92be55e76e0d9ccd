"""Requests that leave early, engines that close, folders that do not load: nothing is left over."""

import gc
import json
import os
import random
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from deployments.contract.errors import ModelLoadFailed, ServingError, Unavailable
from deployments.contract.types import Chunk, SamplingOptions
from deployments.engines.text.engine import TextGenerationEngine
from deployments.engines.text.paged import PagedLoop
from deployments.engines.text.request import Event
from tests.conftest import PROJECT
from tests.deployments.engines.test_device import teams
from tests.support.text_models import (
    PATIENCE_S,
    PROMPTS,
    Listener,
    ask,
    byte_level_tokenizer,
    load,
    load_paged,
    load_slots,
    save_model,
)

LOADERS = [load_slots, load_paged]
Load = Callable[..., TextGenerationEngine]
THREADS = {"text-generation", "text-paged"}


@pytest.fixture(params=LOADERS)
def engine(request: pytest.FixtureRequest, folder: Path) -> Iterator[TextGenerationEngine]:
    engine: TextGenerationEngine = request.param(folder, max_batch_size=4)
    yield engine
    engine.close()


class Quitter(Listener):
    """Cancels its own request when the first text arrives."""

    def __call__(self, event: Event) -> None:
        super().__call__(event)
        assert self.submitted.wait(PATIENCE_S)
        self.generation.cancel()

    def submit(self, engine: TextGenerationEngine, prompt: str) -> None:
        self.submitted = threading.Event()
        self.generation = engine.submit(prompt, 80, SamplingOptions(), self)
        self.submitted.set()


def test_a_cancelled_request_computes_no_further_token(engine: TextGenerationEngine) -> None:
    quitter = Quitter()
    quitter.submit(engine, PROMPTS[0])
    end = quitter.finished()
    first = quitter.events[0]
    assert isinstance(first, Chunk)
    assert end.finish_reason == "cancelled"
    assert end.completion_tokens == first.index
    assert engine.stats.running == 0


def test_a_waiting_request_can_be_cancelled(engine: TextGenerationEngine) -> None:
    busy = [Quitter() for _ in range(4)]
    for listener in busy:
        listener.submit(engine, PROMPTS[1])
    late = Listener()
    engine.submit(PROMPTS[0], 50, SamplingOptions(), late).cancel()
    end = late.finished()
    assert end.finish_reason == "cancelled"


def test_1000_requests_with_random_cancellation_leave_no_slot_and_no_thread(engine: TextGenerationEngine) -> None:
    dice = random.Random(3)
    ask(engine, PROMPTS[0], 1)
    threads = threading.active_count()
    listeners = [Listener() for _ in range(1000)]
    for listener in listeners:
        generation = engine.submit(dice.choice(PROMPTS), dice.randint(0, 6), SamplingOptions(), listener)
        if dice.random() < 0.5:
            generation.cancel()
    reasons = {listener.finished().finish_reason for listener in listeners}
    assert {"cancelled", "length"} <= reasons
    assert engine.stats.running == engine.stats.waiting == 0
    if isinstance(engine._loop, PagedLoop):
        _wait_until_no_page_is_held(engine._loop)
    else:
        assert engine.stats.cache_bytes == 0
    assert all(sum(not isinstance(event, Chunk) for event in listener.events) == 1 for listener in listeners)
    assert threading.active_count() == threads


def _wait_until_no_page_is_held(loop: PagedLoop) -> None:
    """The library lets go of cancelled requests before its next step, or within 0.1 s where there is none."""
    assert loop._manager is not None
    assert loop._manager.batch_processor is not None
    cache, give_up = loop._manager.batch_processor.cache, time.monotonic() + PATIENCE_S
    while any(allocator.block_table for allocator in cache.cache_allocators.values()):
        assert time.monotonic() < give_up, "pages are held for requests that have ended"
        time.sleep(0.01)
    cache.evict_cached_blocks()
    cache.pool.try_to_free_sectors()
    assert cache.compute_free_capacity() == 1


def test_requests_from_many_threads_all_end(engine: TextGenerationEngine) -> None:
    listeners = [Listener() for _ in range(32)]

    def submit(some: list[Listener]) -> None:
        for listener in some:
            engine.submit(PROMPTS[0], 4, SamplingOptions(), listener)

    threads = [threading.Thread(target=submit, args=(listeners[n::4],)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({(listener.finished(), listener.text) for listener in listeners}) == 1


@pytest.mark.parametrize("load", LOADERS)
def test_closing_under_load_fails_what_runs_and_gives_everything_back(load: Load, folder: Path) -> None:
    engine = load(folder, max_batch_size=4)
    model = weakref.ref(engine._loaded.model)  # type: ignore[union-attr]
    listeners = [Listener() for _ in range(12)]
    for listener in listeners:
        engine.submit(PROMPTS[0], 80, SamplingOptions(), listener)
    assert listeners[0].started.wait(PATIENCE_S)
    engine.close()
    engine.close()
    failed = [end for end in (listener.end() for listener in listeners) if isinstance(end, ServingError)]
    assert len(failed) >= 8
    assert all(isinstance(error, Unavailable) for error in failed)
    assert engine.resident_bytes == 0
    assert not THREADS & {thread.name for thread in threading.enumerate()}
    gc.collect()
    assert model() is None
    with pytest.raises(Unavailable):
        engine.submit(PROMPTS[0], 5, SamplingOptions(), Listener())


@pytest.mark.parametrize("load", LOADERS)
def test_a_listener_may_close_the_engine(load: Load, folder: Path) -> None:
    engine = load(folder)
    closed = threading.Event()

    def close(event: object) -> None:
        engine.close()
        closed.set()

    engine.submit(PROMPTS[0], 80, SamplingOptions(), close)
    assert closed.wait(PATIENCE_S)
    engine._loop._thread.join(PATIENCE_S)
    assert engine.resident_bytes == 0


def test_resident_bytes_are_the_weights_and_while_it_runs_the_cache_too(folder: Path) -> None:
    engine = load(folder)
    weights = (folder / "model.safetensors").stat().st_size
    idle = engine.resident_bytes
    held: list[int] = []
    ended = threading.Event()

    def weigh(event: Event) -> None:
        (held.append(engine.resident_bytes) if isinstance(event, Chunk) else ended.set())

    engine.submit(PROMPTS[0], 20, SamplingOptions(), weigh)
    assert ended.wait(PATIENCE_S)
    after = engine.resident_bytes
    engine.close()
    assert 0.9 * weights < idle < 1.1 * weights
    assert max(held) > idle == after


def _without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _set(name: str, **changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**config, **changes}))

    return change


BROKEN = {
    "no config": (_without("config.json"), "no config.json"),
    "no weights": (_without("model.safetensors"), "no safetensors"),
    "no tokenizer": (_without("tokenizer.json"), "tokenizer"),
    "cut weights": (lambda folder: (folder / "model.safetensors").write_bytes(b"\x08" + b"\0" * 20), "cannot be read"),
    "config is no JSON": (lambda folder: (folder / "config.json").write_text("{"), "cannot be read"),
    "unknown type": (_set("config.json", model_type="unheard_of"), "cannot be read"),
    "code in the folder": (
        _set("config.json", model_type="own", auto_map={"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}),
        "cannot be read",
    ),
    "another family": (_set("config.json", model_type="vit"), "does not generate text"),
    "weights of another shape": (_set("config.json", hidden_size=64), "do not fit"),
    "more layers than weights": (_set("config.json", num_hidden_layers=3), "do not fit"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_folder_is_refused_in_one_line_without_a_path(fault: str, tmp_path: Path) -> None:
    break_it, why = BROKEN[fault]
    break_it(save_model(tmp_path, "llama"))
    with pytest.raises(ModelLoadFailed, match=why) as caught:
        load(tmp_path)
    assert "\n" not in caught.value.message
    assert str(tmp_path) not in caught.value.message
    assert not THREADS & {thread.name for thread in threading.enumerate()}


def test_an_unknown_dtype_is_refused(folder: Path) -> None:
    with pytest.raises(ModelLoadFailed, match="no dtype"):
        load(folder, dtype="int3")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_models_generate(dtype: str, folder: Path) -> None:
    engine = load(folder, dtype=dtype)
    assert ask(engine, PROMPTS[0], 8).finished().completion_tokens == 8
    engine.close()


def test_int8_weights_take_less_memory_and_lose_little(folder: Path) -> None:
    whole, rounded = load(folder), load(folder, dtype="int8")
    ids = torch.arange(3, 40)[None]
    with torch.inference_mode():
        expected, given = (engine._loaded.model(ids).logits for engine in (whole, rounded))  # type: ignore[union-attr]
    assert rounded.resident_bytes < 0.7 * whole.resident_bytes, "the embedding stays as it was"
    assert (given - expected).abs().max() < 0.05 * expected.abs().max()
    assert ask(rounded, PROMPTS[0], 8).finished().completion_tokens == 8
    whole.close()
    rounded.close()


def test_byte_level_tokenizer_knows_every_prompt() -> None:
    tokenizer = byte_level_tokenizer()
    assert all(tokenizer.decode(tokenizer(prompt).input_ids, skip_special_tokens=True) == prompt for prompt in PROMPTS)


IDLE_ENGINE = """
import sys
from pathlib import Path
from deployments.engines.device import end_openmp_pool, use_threads
from tests.deployments.engines.test_device import teams, wait_until_ended
from tests.deployments.engines.text.test_lifecycle import TeamWatcher
from tests.support.text_models import PROMPTS, SamplingOptions, load_slots

use_threads(2)
load_slots(Path(sys.argv[1])).close()  # With it come the threads that libraries keep for ever.
end_openmp_pool()
before = teams()
engine = load_slots(Path(sys.argv[1]))
wait_until_ended(before)
listener = TeamWatcher(before)
engine.submit(PROMPTS[0], 8, SamplingOptions(), listener)
listener.finished()
assert listener.seen, "no team computed"
wait_until_ended(before)
engine.close()
"""


class TeamWatcher(Listener):
    """In the engine's thread, where it is called: computes what takes a team, and looks who has come since `before`."""

    def __init__(self, before: set[int]) -> None:
        super().__init__()
        self.before = before
        self.seen: set[int] = set()

    def __call__(self, event: Event) -> None:
        torch.ones(1 << 20).sum()
        self.seen |= teams() - self.before
        super().__call__(event)


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="a team is not seen here")
def test_an_idle_engine_leaves_no_threads_that_compute(folder: Path) -> None:
    """A team that only waits makes the steps of every other model slower. Alone in a process: others have teams too."""
    command = [sys.executable, "-c", IDLE_ENGINE, str(folder)]
    run = subprocess.run(command, cwd=PROJECT, stderr=subprocess.PIPE, text=True)
    assert run.returncode == 0, run.stderr
