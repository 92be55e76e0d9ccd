"""What the tests of compiled forwards share."""

import shutil
from collections.abc import Callable

import pytest

from deployments.engines.text.compiled import artifacts
from deployments.engines.text.compiled.artifacts import COMPILERS, AotArtifacts
from deployments.engines.text.decoders.slots import SlotDecoder
from deployments.engines.text.engine import TextGenerationEngine
from deployments.engines.text.loop import DecoderLoop

COMPILE_S = 280.0


def needs_compiler(test: Callable[..., None]) -> Callable[..., None]:
    without = pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="there is no C++ compiler")
    marked: Callable[..., None] = pytest.mark.compiles(without(test))
    return marked


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forwards are compiled at normal priority, and used even if they are slower: other processes use the machine."""
    monkeypatch.setattr(artifacts, "NICENESS", 0)
    monkeypatch.setattr(artifacts, "WORTH_IT", 0.0)


def aot_of(engine: TextGenerationEngine) -> AotArtifacts:
    assert isinstance(engine.loop, DecoderLoop)
    decoder = engine.loop.decoder
    assert isinstance(decoder, SlotDecoder)
    assert decoder.aot
    return decoder.aot


def compiled(engine: TextGenerationEngine) -> AotArtifacts:
    """All three forwards, once they are compiled. They stay on disk, so that the next call is quick."""
    aot = aot_of(engine)
    aot.compile_soon()
    assert aot.settled.wait(COMPILE_S)
    assert aot.ready.keys() == {"single", "many", "prompts"}
    return aot
