"""Each warper keeps what transformers keeps; a draw depends on its seed and position alone."""

import math

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from deployments.contract.types import SamplingOptions
from deployments.engines.text.sampler import RowSampling, sample, uniform

SEEN = (3, 3, 7, 20)
LOGITS = torch.randn(40, generator=torch.Generator().manual_seed(0)) * 2

OPTIONS = [
    SamplingOptions(temperature=0.7),
    SamplingOptions(temperature=1.0, top_k=5),
    SamplingOptions(temperature=1.3, top_p=0.6),
    SamplingOptions(temperature=1.0, min_p=0.2),
    SamplingOptions(temperature=0.9, top_k=12, top_p=0.8, min_p=0.05, repetition_penalty=1.4),
    SamplingOptions(temperature=1.0, top_p=1e-9),
]


def expected(options: SamplingOptions) -> torch.Tensor:
    """The distribution that `generate` would draw from."""
    warpers = LogitsProcessorList()
    if options.repetition_penalty:
        warpers.append(RepetitionPenaltyLogitsProcessor(options.repetition_penalty))
    warpers.append(TemperatureLogitsWarper(options.temperature or 1.0))
    if options.top_k:
        warpers.append(TopKLogitsWarper(options.top_k))
    if options.top_p:
        warpers.append(TopPLogitsWarper(options.top_p))
    if options.min_p:
        warpers.append(MinPLogitsWarper(options.min_p))
    return warpers(torch.LongTensor([SEEN]), torch.FloatTensor(LOGITS[None].clone()))[0].softmax(-1)


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS)
def test_tokens_are_drawn_with_their_probability(options: SamplingOptions) -> None:
    draws = 20_000
    others = [RowSampling(OPTIONS[seed % 6], seed, SEEN) for seed in range(6)]
    rows = [RowSampling(options, seed, SEEN) for seed in range(draws)]
    tokens = sample(LOGITS.expand(draws + 6, -1), [*others, *rows])[6:]
    seen = torch.bincount(torch.tensor(tokens), minlength=40) / draws
    wanted = expected(options)
    assert seen[wanted == 0].sum() == 0
    assert (seen - wanted).abs().max() < 4 * math.sqrt(0.25 / draws)


def test_greedy_rows_and_penalised_greedy_rows_do_not_draw() -> None:
    penalised = LOGITS.clone()
    best = int(LOGITS.argmax())
    penalised[best] = LOGITS[best] / 50
    rows = [
        RowSampling(SamplingOptions(), 1, (best,)),
        RowSampling(SamplingOptions(repetition_penalty=50.0), 1, (best,)),
    ]
    assert sample(LOGITS.expand(2, -1), rows) == [best, int(penalised.argmax())]


def test_presence_and_frequency_penalties_count_the_text_and_not_the_prompt() -> None:
    logits = torch.zeros(1, 40)
    logits[0, [3, 7, 20, 9]] = torch.tensor([5.0, 4.9, 4.0, 3.9])
    said = (3, 3, 3, 7, 20, 20)  # The first of them is the prompt.

    def best(**options: float) -> int:
        return sample(logits, [RowSampling(SamplingOptions.model_validate(options), 1, said, prompt_tokens=1)])[0]

    assert best() == 3
    assert best(frequency_penalty=0.2) == 7  # 5.0 - 0.4 against 4.9 - 0.2
    assert best(presence_penalty=2.0) == 9
    assert best(presence_penalty=0.5) == 3
    assert best(frequency_penalty=-2.0) == 3
    assert best(presence_penalty=0.5, frequency_penalty=2.0) == 9


def test_a_bias_moves_a_logit_and_a_barred_token_is_never_chosen() -> None:
    second = int(LOGITS.topk(2).indices[1])
    best = int(LOGITS.argmax())
    biased = RowSampling(SamplingOptions(logit_bias={second: 20.0}), 1, SEEN)
    banned = RowSampling(SamplingOptions(logit_bias={best: -100.0}), 1, SEEN)
    early = RowSampling(SamplingOptions(min_tokens=9), 1, SEEN, barred={best, 4_000})
    drawn = [RowSampling(SamplingOptions(min_tokens=9, temperature=0.1), n, SEEN, barred={best}) for n in range(50)]
    assert sample(LOGITS.expand(3, -1), [biased, banned, early]) == [second] * 3
    assert best not in sample(LOGITS.expand(50, -1), drawn)


def test_a_draw_does_not_depend_on_other_rows() -> None:
    hot = RowSampling(SamplingOptions(temperature=2.0, seed=9), 9, SEEN)
    alone = sample(LOGITS[None], [hot])
    company = [RowSampling(options, 5, SEEN) for options in OPTIONS]
    assert sample(LOGITS.expand(7, -1), [*company, hot])[-1:] == alone


def test_numbers_are_uniform_and_differ_by_seed_and_position() -> None:
    numbers = torch.tensor([uniform(seed, position) for seed in range(100) for position in range(100)])
    assert len(set(numbers.tolist())) > 9_900
    assert abs(float(numbers.mean()) - 0.5) < 0.02
    assert abs(float(torch.histc(numbers, 10, 0, 1).std())) < 120
    assert 0 <= float(numbers.min()) <= float(numbers.max()) < 1


def test_a_distribution_that_leaves_one_token_gives_it_at_every_seed() -> None:
    certain = torch.full((1, 40), -math.inf)
    certain[0, 17] = 3.0
    assert {sample(certain, [RowSampling(SamplingOptions(temperature=5.0), seed, ())])[0] for seed in range(50)} == {17}
