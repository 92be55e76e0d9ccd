"""How often the runtime may die."""

from serve_app.supervisor.deaths import BACK_OFF_S, Deaths


def test_the_third_death_within_five_minutes_is_the_last() -> None:
    deaths = Deaths()
    assert [deaths.back_off(now) for now in (0, 100, 299)] == [*BACK_OFF_S, None]


def test_deaths_of_long_ago_are_forgotten() -> None:
    deaths = Deaths()
    assert [deaths.back_off(now) for now in (0, 100, 301, 500)] == [
        BACK_OFF_S[0],
        BACK_OFF_S[1],
        BACK_OFF_S[1],
        BACK_OFF_S[1],
    ]
    assert deaths.back_off(2000) == BACK_OFF_S[0]
