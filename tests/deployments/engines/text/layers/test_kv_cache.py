"""The cache of slots grows, shrinks and moves rows, and keeps what they hold."""

import torch

from deployments.engines.text.layers.kv_cache import COLUMNS, SlotCache, power_of_two, whole_columns


def prompt(value: float, tokens: int) -> list[torch.Tensor]:
    """Keys of one layer with two heads, of dim three."""
    return [torch.full((2, tokens, 3), value)]


def test_rows_keep_their_values_while_the_cache_grows_and_shrinks() -> None:
    cache = SlotCache()
    cache.grow(prompt(1, 5), prompt(2, 5), 1, 5)
    cache.store(0, prompt(1, 5), prompt(2, 5))
    cache.grow(prompt(3, COLUMNS + 1), prompt(4, COLUMNS + 1), 3, COLUMNS + 1)
    assert (cache.slots, cache.capacity) == (4, 2 * COLUMNS)
    cache.fit(1, COLUMNS)
    assert cache.keys[0][0, :, :5].eq(1).all()
    assert cache.values[0][0, :, :5].eq(2).all()
    assert cache.keys[0][0, :, 5:].eq(0).all()


def test_a_moved_row_is_read_at_its_new_slot_and_a_wiped_one_is_zero() -> None:
    cache = SlotCache()
    cache.grow(prompt(1, 4), prompt(2, 4), 2, 4)
    cache.store(1, prompt(7, 4), prompt(8, 4))
    cache.move(1, 0, 4)
    cache.wipe(1)
    assert cache.keys[0][0, :, :4].eq(7).all()
    assert cache.keys[0][1].eq(0).all()


def test_sizes_are_rounded_up() -> None:
    assert [power_of_two(n) for n in (1, 2, 3, 9)] == [1, 2, 4, 16]
    assert [whole_columns(n) for n in (1, COLUMNS, COLUMNS + 1)] == [COLUMNS, COLUMNS, 2 * COLUMNS]
