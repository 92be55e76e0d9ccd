"""Tokens and times are counted once; a full queue says when to come again."""

from collections.abc import Callable
from pathlib import Path

import pytest

from deployments.engines.text.engine import TextGenerationEngine
from deployments.engines.text.stats import Histogram, StatsRecorder
from tests.support.text_models import LOADERS, PROMPTS, ask


@pytest.mark.parametrize("load", LOADERS)
def test_stats_count_tokens_and_times(load: Callable[..., TextGenerationEngine], folder: Path) -> None:
    engine = load(folder)
    end = ask(engine, PROMPTS[0], 20).finished()
    ask(engine, PROMPTS[1], 1)
    stats = engine.stats
    assert (engine.loop.running, engine.loop.waiting) == (0, 0)
    engine.close()
    assert stats.generated_tokens == 21
    assert stats.prompt_tokens > end.prompt_tokens
    assert [sum(seen.counts) for seen in (stats.queue_s, stats.first_token_s, stats.inter_token_s)] == [2, 2, 19]
    assert end.timing
    assert end.timing.first_token_s
    assert len(end.timing.gaps_s) == 19
    assert sum(end.timing.gaps_s) == pytest.approx(stats.inter_token_s.total)
    assert 0 <= end.timing.queue_s < end.timing.first_token_s < 60


def test_a_value_counts_in_the_first_bucket_that_holds_it() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0, None):
        histogram.observe(value)
    assert histogram.counts == [2, 1, 1]
    assert histogram.total == 12.0


def test_the_expected_wait_grows_with_the_queue_and_is_never_zero() -> None:
    recorder = StatsRecorder()
    assert recorder.expected_wait_ms(7, 4) == 2_000, "a second a request before any has ended"
    assert recorder.expected_wait_ms(0, 1_000) == 50
