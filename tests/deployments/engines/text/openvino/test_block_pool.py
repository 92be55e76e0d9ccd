"""Blocks are shared by texts that begin alike, kept for later ones, and never lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.contract.errors import OutOfMemory
from deployments.engines.text.openvino.block_pool import BlockPool
from deployments.engines.text.openvino.paging import BLOCK


def text_of(*numbers: int) -> list[int]:
    """A block of each number, and one token more."""
    return [number for number in numbers for _ in range(BLOCK)] + [0]


def fill(pool: BlockPool, text: list[int]) -> list[int]:
    """The table of a row with this text."""
    table = pool.find(text)
    while len(table) * BLOCK < len(text):
        table.append(pool.take())
    pool.name(text, table)
    return table


def test_a_text_takes_the_blocks_of_an_earlier_one_that_begins_alike() -> None:
    pool = BlockPool(8, 8)
    first = fill(pool, text_of(1, 2, 3))
    assert pool.find(text_of(1, 2, 4)) == first[:2]
    assert pool.find(text_of(2, 1)) == []


def test_the_last_token_is_always_left_to_compute() -> None:
    pool = BlockPool(8, 8)
    table = fill(pool, text_of(1, 2))
    assert pool.find(text_of(1, 2)[:-1]) == table[:1]


def test_the_least_recently_used_blocks_go_first_and_a_beginning_after_what_follows_it() -> None:
    pool = BlockPool(8, 3)
    for number in (1, 2):
        pool.release(fill(pool, text_of(number, number)))
    assert [len(pool.find(text_of(number, number))) for number in (1, 2)] == [1, 2]


def test_a_block_that_may_hold_nan_is_shared_with_no_later_text() -> None:
    pool = BlockPool(8, 8)
    table = fill(pool, text_of(1, 2))
    pool.forget(table)
    pool.release(table)
    assert pool.find(text_of(1, 2)) == []
    assert pool.used == 0
    assert pool.touched == 3


def test_a_pool_whose_blocks_all_have_rows_is_out_of_memory_and_kept_ones_make_room() -> None:
    pool = BlockPool(3, 3)
    table = fill(pool, text_of(1, 2))
    with pytest.raises(OutOfMemory):
        pool.take()
    pool.release(table)
    assert sorted(pool.take() for _ in range(3)) == [0, 1, 2]


@given(st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 2), max_size=4)), max_size=30))
def test_whatever_comes_and_goes_every_block_is_free_kept_or_in_a_row(steps: list[tuple[bool, list[int]]]) -> None:
    pool = BlockPool(200, 4)
    rows: list[list[int]] = []
    for ends, numbers in steps:
        if ends and rows:
            pool.release(rows.pop(len(numbers) % len(rows)))
        else:
            rows.append(fill(pool, text_of(*numbers)))
        owned = {block for table in rows for block in table}
        assert owned == set(pool._rows)
        assert len(owned) + len(pool._kept) + len(pool._free) == 200
        assert len(pool._kept) <= 4
    for table in rows:
        pool.release(table)
    pool.drop_kept()
    assert pool.used == 0
    assert sorted(pool._free) == list(range(200))
