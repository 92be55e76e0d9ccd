"""How many tokens are proposed to a text, by how it went on before."""

from deployments.engines.text.speculation.proposer import NoProposer, Pace


def paced(pace: Pace, right: list[int | None]) -> list[int]:
    """The tokens proposed in each step, of which so many are right; None: all. The model adds one."""
    length, numbers = 10, []
    for share in right:
        number = pace.most(length)
        pace.proposed = number
        numbers.append(number)
        length += 1 + (number if share is None else min(share, number))
    return numbers


def test_proposals_double_up_to_the_longest_while_all_is_right_and_fall_to_what_was() -> None:
    assert paced(Pace(8), [None, None, None, None, 3, 0]) == [2, 4, 8, 8, 8, 3]


def test_pauses_become_longer_until_something_is_right() -> None:
    pace = Pace(8)
    assert paced(pace, [0] * 6) == [2, 0, 0, 0, 0, 2]
    assert paced(Pace(8), [0, 0, 0, 0, 0, 1, 0, 0])[5:] == [2, 2, 0]


def test_a_text_that_was_proposed_nothing_teaches_nothing() -> None:
    pace = Pace()
    for length in (5, 6, 9):
        assert pace.most(length) == 2


def test_where_no_proposer_can_be_nothing_is_proposed() -> None:
    none = NoProposer("for a reason")
    none.rest()
    none.close()
    assert none.propose([], 32) is None
    assert (none.note, none.nbytes, none.weight_bytes) == ("for a reason", 0, 0)
