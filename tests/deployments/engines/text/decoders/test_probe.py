"""A decoder whose logits are not the plain forward's is found out by its first tokens."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from deployments.engines.text.decoders.decoder import StepOutput
from deployments.engines.text.decoders.model import CausalModel
from deployments.engines.text.decoders.probe import LENGTHS, STEPS, Probe, probe_prompts
from deployments.engines.text.decoders.single import SingleDecoder


class ForgetfulDecoder(SingleDecoder):
    """A row that moves has the state of the row whose place it takes."""

    def release(self, row: int, broken: bool = False) -> None:
        states = list(self._states)
        super().release(row, broken)
        self._states = states[: self.rows]


class LateDecoder(SingleDecoder):
    """Right at first: only its second step is wrong."""

    steps = 0

    def step(self, tokens: Sequence[int]) -> StepOutput:
        self.steps += 1
        output = super().step(tokens)
        return output if self.steps % STEPS else output._replace(logits=output.logits * 1.1)


@pytest.fixture(scope="module")
def loaded(folder: Path) -> CausalModel:
    return CausalModel.load(folder, "cpu", None)


@pytest.mark.parametrize("decoder", [SingleDecoder, ForgetfulDecoder, LateDecoder])
def test_only_the_right_logits_match(decoder: type[SingleDecoder], loaded: CausalModel) -> None:
    tried = decoder(loaded.model, "past_key_values")
    assert Probe.of(loaded).matches(tried) == (decoder is SingleDecoder)
    assert tried.rows == 0


@pytest.mark.parametrize("context", [4, 8, 32, 96, 4_096])
def test_prompts_fit_the_context_and_the_vocabulary(context: int) -> None:
    long, short = probe_prompts(320, context)
    assert len(short) < len(long) < context or context == 4
    assert len(long) <= max(LENGTHS)
    assert max(long + short) < 320


def test_a_forward_that_is_not_what_generate_gives_is_found_out(loaded: CausalModel) -> None:
    probe, decoder = Probe.of(loaded), SingleDecoder(loaded.model, None)
    assert probe.generates(decoder, loaded)
    assert not probe.generates(LateDecoder(loaded.model, "past_key_values"), loaded)
