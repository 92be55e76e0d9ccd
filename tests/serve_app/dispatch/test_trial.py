"""The rule by which an input is suspected, as a state machine; what makes two inputs the same."""

from hypothesis import given
from hypothesis import strategies as some

from deployments.contract.chat import Message
from deployments.contract.types import ImageClassification, InferRequest, TextGeneration
from deployments.replica.calls import Progress
from serve_app.dispatch.trial import MOST_DEATHS, Trial, digest_of

LOSSES = some.lists(some.tuples(some.sampled_from(Progress), some.booleans()), max_size=8)


@given(LOSSES)
def test_only_deaths_while_it_is_alone_count(losses: list[tuple[Progress, bool]]) -> None:
    trial = Trial()
    for progress, crashed in losses:
        trial.lost(progress, crashed)
    assert trial.deaths == sum(progress is Progress.ALONE for progress, _ in losses)
    assert trial.losses == len(losses)


@given(LOSSES)
def test_what_was_held_is_not_suspected(losses: list[tuple[Progress, bool]]) -> None:
    trial, other = Trial(), Trial()
    for progress, crashed in losses:
        trial.lost(progress, crashed)
        trial.lost(Progress.HELD, True)
        other.lost(progress, crashed)
    assert (trial.alone, trial.deaths) == (other.alone, other.deaths)


@given(some.integers(0, 8), some.integers(0, 8))
def test_a_crash_makes_it_alone_at_once_and_what_ends_without_one_the_second_time(before: int, after: int) -> None:
    trial = Trial()
    for number in range(before):
        trial.lost(Progress.SENT, False)
        assert trial.alone == (number > 0)
    trial.lost(Progress.SENT, True)
    assert trial.alone
    for _ in range(after):
        trial.lost(Progress.SENT, False)
        assert trial.alone


def test_an_input_that_ends_whatever_computes_it_is_refused_after_three_replicas() -> None:
    """Whoever kills replicas from outside would have to hit the same call alone, twice."""
    trial = Trial()
    while trial.deaths < MOST_DEATHS:
        trial.lost(Progress.ALONE if trial.alone else Progress.SENT, True)
    assert trial.losses == 3


def test_an_input_is_the_same_whatever_its_seed_and_whether_it_is_streamed() -> None:
    asked = TextGeneration(model_id="m", prompt="p", max_tokens=5, temperature=1.0)
    same = [asked, asked.repeatable("a"), asked.repeatable("b"), asked.model_copy(update={"stream": True})]
    assert len({digest_of(one, "d") for one in same}) == 1


def test_what_differs_in_more_is_another_input() -> None:
    message = Message(role="user", content="p")
    requests: list[InferRequest] = [
        TextGeneration(model_id="m", prompt="p", max_tokens=5),
        TextGeneration(model_id="m", prompt="q", max_tokens=5),
        TextGeneration(model_id="m", prompt="p", max_tokens=6),
        TextGeneration(model_id="n", prompt="p", max_tokens=5),
        TextGeneration(model_id="m", prompt="", messages=[message], max_tokens=5),
        ImageClassification(model_id="m", image_data=b"p"),
        ImageClassification(model_id="m", image_data=b"q"),
    ]
    digests = {digest_of(request, digest) for request in requests for digest in ("a", "b")}
    assert len(digests) == 2 * len(requests)
