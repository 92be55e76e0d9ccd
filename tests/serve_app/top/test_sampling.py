"""What two looks at `/metrics` come to."""

import pytest

from serve_app.top.sampling import GPU, REQUESTS, TOKENS, Failure, History, Period, Sample, quantile_of, read


def metrics(ok: int, refused: int, tokens: int, fast: int, slow: int) -> str:
    labels = 'model="gpt",family="text_generation"'
    duration = f"inference_request_duration_seconds_bucket{{{labels},le="
    return f"""# TYPE inference_requests_total counter
inference_requests_total{{{labels},outcome="ok"}} {ok}
inference_requests_total{{{labels},outcome="overloaded"}} {refused}
inference_requests_total{{model="cats",family="image_classification",outcome="ok"}} 7
# TYPE text_generated_tokens_total counter
text_generated_tokens_total{{model="gpt@2"}} {tokens}
# TYPE inference_request_duration_seconds histogram
{duration}"0.1"}} {fast}
{duration}"1.0"}} {fast + slow}
{duration}"+Inf"}} {fast + slow}
inference_request_duration_seconds_sum{{{labels}}} 1
inference_request_duration_seconds_count{{{labels}}} {fast + slow}
"""


def period(later: str = metrics(30, 5, 500, 30, 10), seconds: float = 2.0) -> Period:
    return Period(read(10.0, metrics(10, 1, 100, 10, 0), []), read(10.0 + seconds, later, []))


def test_rates_are_of_the_time_between() -> None:
    assert period().rate(REQUESTS, family="text_generation") == pytest.approx(12)
    assert period().rate(REQUESTS, outcome="ok") == pytest.approx(10)
    assert period().rate(REQUESTS, model="cats") == 0


def test_a_models_version_counts_as_the_model() -> None:
    assert period().rate(TOKENS, model="gpt") == pytest.approx(200)
    assert period().now.count(TOKENS, model="gp") == 0


def test_a_counter_that_fell_began_anew() -> None:
    assert period(metrics(4, 0, 20, 4, 0)).rise(TOKENS, model="gpt") == 20


def test_quantiles_are_of_the_requests_in_between() -> None:
    assert period().quantile(0.5, family="text_generation") == pytest.approx(0.075)
    assert period().quantile(0.99, family="text_generation") == pytest.approx(0.1 + 0.9 * (29.7 - 20) / 10)
    assert period().quantile(0.5, family="image_classification") is None


def test_a_quantile_beyond_the_last_bound_is_that_bound() -> None:
    assert quantile_of([(1.0, 1.0), (float("inf"), 10.0)], 0.9) == 1.0
    assert quantile_of([], 0.5) is None


def test_failures_are_kept_with_their_code_the_last_ones_only() -> None:
    history = History(kept=2)
    for at, refused in enumerate((0, 3, 3, 4, 6)):
        history.add(read(float(at), metrics(1, refused, 0, 0, 0), []))
    assert history.failures == [Failure(3.0, "gpt", "overloaded", 1), Failure(4.0, "gpt", "overloaded", 2)]


def test_what_is_not_there_counts_as_nothing() -> None:
    empty = Sample(0.0, {}, [])
    assert (empty.sum(GPU), empty.count(GPU), Period(empty, empty).rate(REQUESTS)) == (0, 0, 0)
