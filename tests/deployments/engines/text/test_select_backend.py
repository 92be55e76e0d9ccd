"""Each architecture gets the first backend that matches its plain forward, found out once."""

from pathlib import Path

import pytest

from deployments.engines.text import model, select_backend
from deployments.engines.text.decoders.decoder import Decoder
from deployments.engines.text.engine import TextGenerationEngine
from deployments.engines.text.model import CausalModel
from deployments.engines.text.paged import PagedLoop
from deployments.system.artifact_cache import ArtifactCache
from deployments.validation.verdicts import FolderFacts
from tests.support.text_models import (
    PAGED,
    PROMPTS,
    Reference,
    ask,
    load,
    save_model,
)


def test_on_a_gpu_the_library_is_probed_first() -> None:
    makes = [backend.make for backend in select_backend.BACKENDS if "cuda" in backend.devices]
    assert makes[:2] == [select_backend._paged, select_backend._slots]


def test_a_loop_that_gives_other_tokens_is_not_selected(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(self: PagedLoop, names: list[str], logits: object) -> list[int]:
        for name in names:
            if one := self._release(name):
                one.append(5, False)
                one.finish("length")
        return [5] * len(names)

    monkeypatch.setattr(
        select_backend,
        "BACKENDS",
        [backend for backend in select_backend.BACKENDS if backend.make is not select_backend._slots],
    )
    engine = load(folder)
    assert engine.runtime_info == (PAGED,)
    engine.close()
    monkeypatch.setattr(PagedLoop, "_next_tokens", wrong)
    engine = load(folder)
    assert engine.runtime_info != (PAGED,)
    engine.close()


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mamba", "mistral"])
def test_the_next_load_probes_nothing_and_gives_the_same_text(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, facts = save_model(tmp_path / "m", kind), FolderFacts(ArtifactCache(tmp_path / "facts", 1 << 20), "m")
    first = TextGenerationEngine.load(folder, compile_steps=False, facts=facts)
    text, runtime_info = ask(first, PROMPTS[0], 12).text, first.runtime_info
    first.close()
    assert Reference(folder).agrees(PROMPTS[0], 12, text)

    def probed(*_: object) -> None:
        raise AssertionError("probed again")

    for probe in ("trace_linears", "_matches"):
        monkeypatch.setattr(model, probe, probed)
    for probe in ("_decoder_matches", "_loop_matches"):
        monkeypatch.setattr(select_backend, probe, probed)
    second = TextGenerationEngine.load(folder, compile_steps=False, facts=facts)
    assert (ask(second, PROMPTS[0], 12).text, second.runtime_info) == (text, runtime_info)
    second.close()


def test_a_model_that_changes_its_weights_at_its_first_forward_gives_the_same_text_each_time(tmp_path: Path) -> None:
    folder, facts = save_model(tmp_path / "m", "rwkv"), FolderFacts(ArtifactCache(tmp_path / "facts", 1 << 20), "m")
    for _ in range(2):
        engine = TextGenerationEngine.load(folder, compile_steps=False, facts=facts)
        assert Reference(folder).agrees(PROMPTS[0], 12, ask(engine, PROMPTS[0], 12).text)
        engine.close()


def test_facts_of_another_machine_are_probed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On another machine, with another torch or other code of ours: all of it stands in the digest."""
    folder, facts = save_model(tmp_path / "m", "llama"), FolderFacts(ArtifactCache(tmp_path / "facts", 1 << 20), "m")
    TextGenerationEngine.load(folder, compile_steps=False, facts=facts).close()
    probed: list[object] = []
    matches = select_backend._decoder_matches

    def probe(decoder: Decoder, loaded: CausalModel) -> bool:
        probed.append(decoder)
        return matches(decoder, loaded)

    monkeypatch.setattr(select_backend, "_decoder_matches", probe)
    monkeypatch.setattr("deployments.engines.probes._here", lambda: "elsewhere")
    TextGenerationEngine.load(folder, compile_steps=False, facts=facts).close()
    assert probed
