"""Keys and values of many requests in one batch. Knows tensors, not requests.

Row r holds one request; column p of a row is the token at position p. Rows join and leave one by one, so each row
has its own length; what lies beyond it is masked. Capacity grows with what is stored, never with what is asked for.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

COLUMNS = 64  # Attention runs over a multiple of so many columns, so that few shapes occur.


class StepLayer(DynamicLayer):  # type: ignore[no-untyped-call]  # transformers registers subclasses untyped
    """One layer for one decode step: writes a token a row at `positions` [rows] and attends over the whole view.

    Keys and values are views [rows, heads, columns, dim] into a `SlotCache`.
    """

    def __init__(self, keys: Tensor, values: Tensor, rows: Tensor, positions: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        self.keys, self.values = keys, values
        self.rows, self.positions = rows, positions
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        assert self.keys is not None and self.values is not None
        self.keys[self.rows, :, self.positions] = key_states[:, :, 0]
        self.values[self.rows, :, self.positions] = value_states[:, :, 0]
        return self.keys, self.values


class StepCache(Cache):
    """What the model sees of a `SlotCache` during one step."""

    def __init__(self, keys: Sequence[Tensor], values: Sequence[Tensor], positions: Tensor) -> None:
        rows = torch.arange(positions.shape[0], device=positions.device)
        super().__init__(layers=[StepLayer(k, v, rows, positions) for k, v in zip(keys, values, strict=True)])


def step_mask(positions: Tensor, columns: int, dtype: torch.dtype) -> Tensor:
    """An additive mask [rows, 1, 1, columns]: each row sees its columns up to its position."""
    hidden = torch.arange(columns, device=positions.device) > positions[:, None]
    mask = torch.zeros(hidden.shape, dtype=dtype, device=positions.device)
    return mask.masked_fill_(hidden, float("-inf"))[:, None, None, :]


class SlotCache:
    """Buffers [slots, heads, capacity, dim] for each layer. Rows in use are always the first ones."""

    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    @property
    def nbytes(self) -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in self.keys + self.values)

    @property
    def slots(self) -> int:
        return self.keys[0].shape[0] if self.keys else 0

    @property
    def capacity(self) -> int:
        return self.keys[0].shape[2] if self.keys else 0

    def store(self, row: int, prefilled: DynamicCache, lengths: Sequence[int]) -> None:
        """Put the rows of a prefilled cache, each up to its length, into `row` and the rows after it."""
        fresh_keys, fresh_values = _stored(prefilled, "keys"), _stored(prefilled, "values")
        if not self.keys:
            self.keys = [key.new_empty(0, key.shape[1], 0, key.shape[3]) for key in fresh_keys]
            self.values = [value.new_empty(0, value.shape[1], 0, value.shape[3]) for value in fresh_values]
        self.reserve(row + len(lengths), max(lengths))
        for buffer, fresh in zip(self.keys + self.values, fresh_keys + fresh_values, strict=True):
            for source, length in enumerate(lengths):
                buffer[row + source, :, :length] = fresh[source, :, :length]

    def reserve(self, slots: int, columns: int) -> None:
        """Make room, doubling what there is."""
        if slots <= self.slots and columns <= self.capacity:
            return
        slots = max(self.slots, _power_of_two(slots))
        columns = max(self.capacity, COLUMNS, _power_of_two(columns))
        for buffers in (self.keys, self.values):
            for index, old in enumerate(buffers):
                # Zeros, since a masked column is still multiplied by 0, and 0 times what lay in memory may be NaN.
                new = old.new_zeros(slots, old.shape[1], columns, old.shape[3])
                new[: old.shape[0], :, : old.shape[2]] = old
                buffers[index] = new

    def view(self, rows: int, columns: int) -> tuple[list[Tensor], list[Tensor]]:
        """The first rows and columns of every layer."""
        return [key[:rows, :, :columns] for key in self.keys], [value[:rows, :, :columns] for value in self.values]

    def move(self, source: int, target: int, length: int) -> None:
        for tensor in self.keys + self.values:
            tensor[target, :, :length] = tensor[source, :, :length]

    def wipe(self, row: int) -> None:
        """Forget a row that may hold NaN."""
        for tensor in self.keys + self.values:
            tensor[row].zero_()

    def clear(self) -> None:
        """Give all memory back."""
        self.keys, self.values = [], []


def _stored(cache: DynamicCache, name: str) -> list[Tensor]:
    return [getattr(layer, name) for layer in cache.layers]


def _power_of_two(number: int) -> int:
    return 1 << max(0, number - 1).bit_length()
