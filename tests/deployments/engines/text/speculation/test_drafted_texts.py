"""Texts are the same with a good draft model and with a bad one, beside others too. Its memory goes with them."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from deployments.contract.errors import ModelLoadFailed
from deployments.contract.types import SamplingOptions
from deployments.engines.text.engine import TextGenerationEngine
from deployments.engines.text.loop import DecoderLoop
from deployments.engines.text.openvino.paged_decoder import PagedDecoder
from deployments.engines.text.speculation.draft_model import DraftFolder, DraftModel
from tests.deployments.engines.text.speculation.test_prompt_lookup import OTHERS, PROPOSING, REPEATED, assert_alike
from tests.support import PROJECT
from tests.support.text_models import (
    OPENVINO,
    PROMPTS,
    Listener,
    PausedListener,
    ask,
    converted_models,
    save_long_model,
    save_model,
)
from tests.support.until import wait_until

pytestmark = pytest.mark.compiles


def save_other(folder: Path, like: Path) -> Path:
    """Random weights in the shape of another model, with its tokenizer."""
    shutil.copytree(like, folder)
    (folder / "model.yaml").unlink(missing_ok=True)
    model = AutoModelForCausalLM.from_pretrained(like)
    torch.manual_seed(3)
    for tensor in model.parameters():
        tensor.data = torch.randn_like(tensor) * 0.2
    model.save_pretrained(folder)
    return folder


def load(folder: Path, draft: Path | None) -> TextGenerationEngine:
    named = None if draft is None else DraftFolder("other", draft, None)
    engine = TextGenerationEngine.load(folder, cache=converted_models(), draft=named)
    assert engine.runtime_info[0] == OPENVINO + ", draft model other" * (draft is not None)
    return engine


@pytest.fixture(scope="module", params=["gpt-nano", "llama"])
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    llama = request.param == "llama"
    return save_long_model(tmp_path_factory.mktemp("llama")) if llama else PROJECT / "models" / "gpt-nano"


@pytest.fixture(scope="module")
def plain(target: Path) -> Iterator[TextGenerationEngine]:
    engine = load(target, None)
    yield engine
    engine.close()


@pytest.fixture(scope="module", params=["itself", "another"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def drafting(kind: str, target: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TextGenerationEngine]:
    draft = target if kind == "itself" else save_other(tmp_path_factory.mktemp("draft") / "other", target)
    engine = load(target, draft)
    yield engine
    engine.close()


def proposer_of(engine: TextGenerationEngine) -> DraftModel:
    assert isinstance(engine.loop, DecoderLoop)
    assert isinstance(engine.loop._proposer, DraftModel)
    return engine.loop._proposer


def decoder_of(engine: TextGenerationEngine) -> PagedDecoder:
    """The draft model's."""
    decoder = proposer_of(engine)._decoder
    assert isinstance(decoder, PagedDecoder)
    return decoder


def test_a_text_is_the_same_with_a_good_and_with_a_bad_draft(
    kind: str, plain: TextGenerationEngine, drafting: TextGenerationEngine
) -> None:
    stats = drafting.stats
    for asked, proposes in ((PROPOSING, True), (OTHERS, False)):
        before, accepted = stats.draft_tokens, stats.accepted_tokens
        for prompt, tokens, sampling in asked:
            assert_alike(*(ask(engine, prompt, tokens, sampling) for engine in (plain, drafting)))
        drafted, right = stats.draft_tokens - before, stats.accepted_tokens - accepted
        assert (drafted > 0) == proposes
        if proposes and kind == "itself":
            assert right >= 0.9 * drafted, "but for ties that rounding decides"


def test_a_text_is_the_same_beside_others_and_the_draft_models_rows_go_with_them(
    plain: TextGenerationEngine, drafting: TextGenerationEngine
) -> None:
    asked = [*PROPOSING, *OTHERS]
    listeners = [[Listener() for _ in asked] for _ in range(2)]
    for engine, row in zip((plain, drafting), listeners, strict=True):
        for (prompt, tokens, sampling), listener in zip(asked, row, strict=True):
            engine.submit(prompt, tokens, sampling, listener)
    for one, other in zip(*listeners, strict=True):
        assert_alike(one, other)
    assert drafting.loop.use == 0
    wait_until(lambda: decoder_of(drafting).rows == 0)
    assert not decoder_of(drafting)._pool._rows
    assert drafting.resident_bytes > plain.resident_bytes


def test_an_engine_that_closes_while_it_proposes_gives_both_models_up(target: Path) -> None:
    engine = load(target, target)
    listener = PausedListener()
    engine.submit(REPEATED, 90, SamplingOptions(ignore_eos=True), listener)
    assert listener.started.wait(60)
    proposer = proposer_of(engine)
    listener.resumed.set()
    engine.close()
    listener.end()
    assert not hasattr(proposer._decoder, "_steps")
    assert engine.resident_bytes == 0


def test_a_request_that_is_cancelled_gives_its_row_up(drafting: TextGenerationEngine) -> None:
    listener = PausedListener()
    request = drafting.submit(REPEATED, 90, SamplingOptions(ignore_eos=True), listener)
    assert listener.started.wait(60)
    request.cancel()
    listener.resumed.set()
    assert listener.finished().finish_reason == "cancelled"
    wait_until(lambda: decoder_of(drafting).rows == 0)


def test_a_draft_with_other_tokens_is_refused(tmp_path: Path) -> None:
    folder = save_long_model(tmp_path / "m")
    with pytest.raises(ModelLoadFailed, match="its draft model gpt has another vocabulary: [0-9,]+ tokens differ"):
        TextGenerationEngine.load(folder, draft=DraftFolder("gpt", PROJECT / "models" / "gpt-nano", None))


def test_a_draft_that_cannot_be_loaded_is_an_error_and_one_that_openvino_does_not_compute_is_not(
    tmp_path: Path,
) -> None:
    folder, mamba = save_long_model(tmp_path / "m"), save_model(tmp_path / "mamba", "mamba")
    engine = TextGenerationEngine.load(folder, cache=converted_models(), draft=DraftFolder("mamba", mamba, None))
    assert engine.runtime_info == (f"{OPENVINO}, without the draft model mamba, which OpenVINO does not compute",)
    assert ask(engine, PROMPTS[0], 4).text
    engine.close()
    with pytest.raises(ModelLoadFailed, match="its draft model: no dtype 'int3'"):
        TextGenerationEngine.load(folder, cache=converted_models(), draft=DraftFolder("m", folder, "int3"))
