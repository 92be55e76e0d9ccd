"""Texts of near lengths share forwards, little of which is wasted, and each request has its turn."""

import random
from collections.abc import Sequence

import pytest

from deployments.engines.embedding.batching import MOST_WASTED, EncodedText, Turns, batch_of


def texts(*lengths: int) -> list[EncodedText]:
    return [EncodedText(range(length)) for length in lengths]


def lengths_of(waiting: Sequence[EncodedText], chosen: Sequence[int]) -> list[int]:
    return [len(waiting[index].ids) for index in chosen]


def forwards(waiting: list[EncodedText], most_texts: int = 256, most_tokens: int = 4096) -> list[list[int]]:
    """The lengths of the texts of each forward until none waits."""
    done = []
    while waiting:
        chosen = batch_of(waiting, most_texts, most_tokens)
        done.append(lengths_of(waiting, chosen))
        waiting = [text for index, text in enumerate(waiting) if index not in set(chosen)]
    return done


def padding(forwards: Sequence[Sequence[int]]) -> float:
    computed = sum(max(lengths) * len(lengths) for lengths in forwards)
    return 1 - sum(map(sum, forwards)) / computed


def test_of_many_requests_with_texts_of_every_length_a_tenth_at_most_is_padding() -> None:
    chance, turns = random.Random(3), Turns()
    waiting = [
        text
        for _ in range(20)
        for text in turns.of(texts(*(chance.randint(20, 260) for _ in range(chance.choice([1, 8, 64])))))
    ]
    done = forwards(list(waiting))
    assert sorted(length for lengths in done for length in lengths) == sorted(len(text.ids) for text in waiting)
    assert padding(done) <= MOST_WASTED
    assert all(padding([lengths]) <= MOST_WASTED for lengths in done)
    # Forwards are well filled: by the order in which they came, as many texts would be padded to a third.
    assert sum(map(sum, done)) / len(done) > 2048
    as_they_came = [lengths_of(waiting, range(at, min(at + 16, len(waiting)))) for at in range(0, len(waiting), 16)]
    assert padding(as_they_came) > 0.3


def test_a_forward_has_no_more_texts_and_tokens_than_it_may() -> None:
    assert [len(lengths) for lengths in forwards(texts(*[8] * 10), most_texts=4)] == [4, 4, 2]
    assert [len(lengths) for lengths in forwards(texts(*[8] * 10), most_tokens=40)] == [5, 5]
    assert forwards(texts(100, 100), most_tokens=40) == [[100], [100]]


def test_texts_of_unequal_length_may_be_kept_apart() -> None:
    waiting = texts(20, 21, 20)
    assert lengths_of(waiting, batch_of(waiting, 9, 999)) == [20, 20, 21]
    assert lengths_of(waiting, batch_of(waiting, 9, 999, equal=True)) == [20, 20]


def test_a_request_of_a_few_texts_does_not_wait_for_one_of_thousands() -> None:
    turns = Turns()
    waiting = turns.of(texts(*[50] * 2048))
    for _ in range(3):
        chosen = set(batch_of(waiting, 16, 4096))
        turns.served(min((waiting[index] for index in chosen), key=lambda text: text.turn))
        waiting = [text for index, text in enumerate(waiting) if index not in chosen]
    waiting += turns.of(texts(5))
    served = [lengths_of(waiting, batch_of(waiting, 16, 4096))[0]]
    assert served == [5] or len(waiting) == 0


def test_the_texts_of_a_request_are_computed_from_the_longest_to_the_shortest() -> None:
    ordered = Turns().of(texts(3, 9, 1))
    assert [text.turn for text in ordered] == [9, 0, 12]
    assert lengths_of(ordered, batch_of(ordered, 1, 99)) == [9]


@pytest.mark.parametrize("seed", range(5))
def test_the_text_whose_turn_it_is_is_always_among_them(seed: int) -> None:
    chance = random.Random(seed)
    waiting = [EncodedText(range(chance.randint(1, 99)), turn=chance.randint(0, 50)) for _ in range(40)]
    first = batch_of(waiting, chance.randint(1, 9), 512)[0]
    assert waiting[first].turn == min(text.turn for text in waiting)
