"""Which inputs are refused: two deaths alone, for a time, kept and lifted."""

import pytest

from deployments.contract.status import Suspect
from serve_app.registry import quarantine as module
from serve_app.registry.quarantine import Quarantine


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def suspect(digest: str = "d", model: str = "m") -> Suspect:
    return Suspect(digest, model, "text_generation", "r")


def test_an_input_is_refused_at_the_second_death_for_a_time() -> None:
    clock = Clock()
    quarantine = Quarantine(60, clock=clock)
    assert [quarantine.died_alone(suspect()), quarantine.digests()] == [False, {}]
    assert quarantine.died_alone(suspect())
    assert quarantine.digests() == {"m": frozenset({"d"})}
    (refused,) = quarantine.inputs()
    assert (refused.deaths, refused.since, refused.until, refused.request_id) == (2, 1000.0, 1060.0, "r")
    clock.now += 60
    assert (quarantine.inputs(), quarantine.digests()) == ([], {})
    assert not quarantine.died_alone(suspect())


def test_an_answer_forgets_a_death_and_lifts_no_quarantine() -> None:
    quarantine = Quarantine(60)
    quarantine.died_alone(suspect())
    quarantine.answered_alone("d")
    assert not quarantine.died_alone(suspect())
    assert quarantine.died_alone(suspect())
    quarantine.answered_alone("d")
    assert quarantine.inputs()


def test_an_operator_lifts_what_is_refused_and_it_has_two_deaths_again() -> None:
    quarantine = Quarantine(60)
    quarantine.died_alone(suspect())
    assert quarantine.lift("d") is None
    quarantine.died_alone(suspect())
    lifted = quarantine.lift("d")
    assert lifted
    assert lifted.digest == "d"
    assert quarantine.inputs() == []
    assert not quarantine.died_alone(suspect())


def test_what_is_known_outlives_the_process() -> None:
    first = Quarantine(60)
    for digest in ("once", "twice", "twice"):
        first.died_alone(suspect(digest))
    second = Quarantine(60, first.state())
    assert second.inputs() == first.inputs() != []
    assert second.died_alone(suspect("once"))


def test_nothing_is_refused_where_the_settings_say_so() -> None:
    quarantine = Quarantine(0)
    assert [quarantine.died_alone(suspect()) for _ in range(3)] == [False] * 3


def test_the_oldest_are_forgotten_where_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 2)
    quarantine = Quarantine(60)
    for digest in "aabbcc":
        quarantine.died_alone(suspect(digest))
    assert [one.digest for one in quarantine.inputs()] == ["b", "c"]
