"""Each architecture gets the first backend that matches its plain forward, found out once."""

import errno
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, BertConfig

from benchmarks.text import compat
from deployments.contract.errors import ModelLoadFailed, Unavailable
from deployments.contract.types import SamplingOptions
from deployments.engines.text import select_backend
from deployments.engines.text.decoders.decoder import Decoder
from deployments.engines.text.decoders.probe import Probe
from deployments.engines.text.engine import TextGenerationEngine
from deployments.engines.text.loop import DecoderLoop
from deployments.engines.text.openvino.artifacts import read_or_make
from deployments.engines.text.openvino.paged_decoder import PagedDecoder
from deployments.engines.text.paged import PagedLoop
from deployments.engines.text.select_backend import Backend
from deployments.system.artifact_cache import ArtifactCache
from deployments.system.worker_process import WorkerFailed
from deployments.validation.verdicts import FolderFacts
from tests.support.text_models import (
    OPENVINO,
    PAGED,
    PATIENCE_S,
    PROMPTS,
    VOCABULARY,
    PausedListener,
    Reference,
    ask,
    byte_level_tokenizer,
    converted_models,
    load,
    save_model,
)

pytestmark = pytest.mark.compiles

PLAIN = "plain generation, row by row: its KV cache does not fit a shared batch"


def load_with(folder: Path, facts: FolderFacts) -> TextGenerationEngine:
    return TextGenerationEngine.load(folder, cache=converted_models(), facts=facts)


@pytest.fixture
def facts(tmp_path: Path) -> FolderFacts:
    return FolderFacts(ArtifactCache(tmp_path / "facts", 1 << 20), "m")


def test_a_loop_that_gives_other_tokens_is_not_selected(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(self: PagedLoop, names: list[str], logits: object) -> list[int]:
        for name in names:
            if one := self._release(name):
                one.append(5, False)
                one.finish("length")
        return [5] * len(names)

    rows = (Backend("cpu", select_backend._paged), *select_backend.BACKENDS[2:])
    monkeypatch.setattr(select_backend, "BACKENDS", rows)
    engine = load(folder)
    assert engine.runtime_info == (PAGED,)
    engine.close()
    monkeypatch.setattr(PagedLoop, "_next_tokens", wrong)
    engine = load(folder)
    assert engine.runtime_info == (PLAIN,)
    engine.close()


@pytest.mark.parametrize("model_type", ["lfm2", "gemma4_text", "doge"])
def test_types_that_an_engine_cannot_start_or_batch_answer_five_requests_at_once_as_transformers_does(
    model_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`python -m benchmarks.compat` has every type."""
    converted_models()  # Its child converts these, too.
    monkeypatch.setattr(compat, "LENGTHS", (20,))
    monkeypatch.setattr(compat, "TOKENS", 8)
    outcome = compat.examine(model_type, tmp_path)
    assert outcome.result == "equal", outcome


def raising(failure: Exception) -> Callable[..., None]:
    def make(*_: object) -> None:
        raise failure

    return make


@pytest.mark.parametrize("failure", [RuntimeError("no such operation"), WorkerFailed("timeout"), OSError("disk full")])
def test_a_backend_that_fails_is_no_outage(
    failure: Exception, folder: Path, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(select_backend, "read_or_make", raising(failure))
    engine = load(folder)
    assert engine.runtime_info == (PLAIN,)
    assert reference.agrees(PROMPTS[0], 12, ask(engine, PROMPTS[0], 12).text)
    engine.close()


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_rounded_weights_are_refused_where_they_cannot_be_computed(dtype: str, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match=f"{dtype} is computed by OpenVINO"):
        load(save_model(tmp_path, "mamba"), dtype=dtype)


@pytest.mark.parametrize("kind", ["llama", "mamba"])
def test_the_next_load_probes_nothing_and_gives_the_same_text(
    kind: str, facts: FolderFacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_model(tmp_path / "m", kind)
    first = load_with(folder, facts)
    text, runtime_info = ask(first, PROMPTS[0], 12).text, first.runtime_info
    first.close()
    assert Reference(folder).agrees(PROMPTS[0], 12, text)

    def probed(*_: object) -> None:
        raise AssertionError("probed again")

    monkeypatch.setattr(Probe, "of", probed)
    monkeypatch.setattr("deployments.engines.text.openvino.artifacts.converter", probed)
    second = load_with(folder, facts)
    assert (ask(second, PROMPTS[0], 12).text, second.runtime_info) == (text, runtime_info)
    second.close()


def test_a_model_that_changes_its_weights_at_its_first_forward_gives_the_same_text_each_time(
    facts: FolderFacts, tmp_path: Path
) -> None:
    folder = save_model(tmp_path / "m", "rwkv")
    for _ in range(2):
        engine = load_with(folder, facts)
        assert Reference(folder).agrees(PROMPTS[0], 12, ask(engine, PROMPTS[0], 12).text)
        engine.close()


def test_facts_of_another_machine_are_probed_again(
    facts: FolderFacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another machine, with another torch or other code of ours: all of it stands in the digest."""
    folder = save_model(tmp_path / "m", "mamba")
    load_with(folder, facts).close()
    probed: list[object] = []
    matches = Probe.matches

    def probe(self: Probe, decoder: Decoder, rounded: bool = False) -> bool:
        probed.append(decoder)
        return matches(self, decoder, rounded)

    monkeypatch.setattr(Probe, "matches", probe)
    load_with(folder, facts).close()
    assert not probed
    monkeypatch.setattr("deployments.engines.probes._here", lambda: "elsewhere")
    load_with(folder, facts).close()
    assert probed


def test_a_window_and_a_plain_model_are_computed_side_by_side(folder: Path, tmp_path: Path) -> None:
    for served in (folder, save_model(tmp_path, "mistral")):
        engine = load(served)
        assert engine.runtime_info == (OPENVINO,)
        engine.close()


def test_a_model_that_reads_in_both_directions_is_refused(tmp_path: Path) -> None:
    """BERT as it comes: transformers has a causal class for it, but the configuration says that it is no decoder."""
    width: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": 32, "initializer_range": 0.3}
    config = BertConfig(**width, num_hidden_layers=2, num_attention_heads=4)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    byte_level_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelLoadFailed, match="in both directions"):
        load(tmp_path)


class HeldConversion:
    """`read_or_make`, once it may."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.may_go_on = threading.Event()
        self._make = read_or_make
        monkeypatch.setattr(select_backend, "read_or_make", self)

    def __call__(self, *given: Any) -> Any:
        assert self.may_go_on.wait(PATIENCE_S)
        return self._make(*given)


def load_unseen(folder: Path, tmp_path: Path, facts: FolderFacts | None = None) -> TextGenerationEngine:
    cache = ArtifactCache(tmp_path / "none-yet", 1 << 30)
    return TextGenerationEngine.load(folder, cache=cache, facts=facts, in_background=True)


def test_a_model_never_seen_answers_while_it_is_converted_and_openvino_goes_on_with_the_same_text(
    folder: Path, reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, facts: FolderFacts
) -> None:
    conversion = HeldConversion(monkeypatch)
    engine = load_unseen(folder, tmp_path, facts)
    assert engine.runtime_info == (f"{PLAIN}, being converted",)
    assert reference.agrees(PROMPTS[0], 12, ask(engine, PROMPTS[0], 12).text)
    first, loop = PausedListener(), engine.loop
    engine.submit(PROMPTS[1], 24, SamplingOptions(), first)  # It is at its first token while the decoder changes.
    assert isinstance(loop, DecoderLoop)
    conversion.may_go_on.set()
    assert loop.settled.wait(PATIENCE_S)
    first.resumed.set()
    first.finished()
    assert reference.agrees(PROMPTS[1], 24, first.text)
    assert isinstance(loop.decoder, PagedDecoder)
    assert engine.runtime_info == (OPENVINO,)
    engine.close()
    known = load_unseen(folder, tmp_path, facts)
    assert known.runtime_info == (OPENVINO,)
    known.close()


def test_a_model_that_cannot_be_converted_stays_with_the_engine_that_answered_first(
    tmp_path: Path, facts: FolderFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_model(tmp_path / "m", "mamba")
    engine = load_unseen(folder, tmp_path, facts)
    assert isinstance(engine.loop, DecoderLoop)
    assert engine.loop.settled.wait(PATIENCE_S)
    assert engine.runtime_info == ("plain generation, row by row: no KV cache",)
    engine.close()
    monkeypatch.setattr(select_backend, "read_or_make", raising(AssertionError("tried again")))
    known = load_unseen(folder, tmp_path, facts)
    assert isinstance(known.loop, DecoderLoop)
    assert known.loop.settled.is_set()
    known.close()


def test_an_engine_that_is_closed_while_it_is_converted_stays_closed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversion = HeldConversion(monkeypatch)
    engine = load_unseen(folder, tmp_path)
    engine.close()
    conversion.may_go_on.set()
    assert isinstance(engine.loop, DecoderLoop)
    assert engine.loop.settled.wait(PATIENCE_S)
    assert engine.loop.nbytes == 0
    with pytest.raises(Unavailable):
        ask(engine, PROMPTS[0], 1)


def test_where_only_openvino_computes_a_model_its_first_answer_waits_for_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(select_backend, "SingleDecoder", raising(ModelLoadFailed("not by us")))
    engine = load_unseen(folder, tmp_path)
    assert engine.runtime_info == (OPENVINO,)
    engine.close()


def test_a_backend_that_a_full_disk_has_cost_is_tried_again_by_the_next_load(
    folder: Path, facts: FolderFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(select_backend, "read_or_make", full)
        engine = load_with(folder, facts)
        assert engine.runtime_info[0] == PLAIN
        assert ask(engine, PROMPTS[0], 4).text
        engine.close()
    engine = load_with(folder, facts)
    assert engine.runtime_info[0] == OPENVINO
    engine.close()
