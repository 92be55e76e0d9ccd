"""Keys and values of many requests in one batch. Knows tensors, not requests.

Row r holds one request; column p of a row is the token at position p. Rows join and leave one by one, so each row
has its own length; what lies beyond it is masked. Capacity grows with what is stored, never with what is asked for.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

COLUMNS = 64  # The capacity of a cache is a multiple of this.


class StepLayer(DynamicLayer):
    """One layer for one decode step: writes a token a row at `positions` [rows] and attends over the whole view.

    Keys and values are views [rows, heads, columns, dim] into a `SlotCache`.
    """

    def __init__(self, keys: Tensor, values: Tensor, rows: Tensor, positions: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        self.keys, self.values = keys, values
        self.rows, self.positions = rows, positions
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        assert self.keys is not None
        assert self.values is not None
        self.keys[self.rows, :, self.positions] = key_states[:, :, 0]
        self.values[self.rows, :, self.positions] = value_states[:, :, 0]
        return self.keys, self.values


class StepCache(Cache):
    """What the model sees of a `SlotCache` during one step."""

    def __init__(self, keys: Sequence[Tensor], values: Sequence[Tensor], positions: Tensor) -> None:
        rows = torch.arange(positions.shape[0], device=positions.device)
        super().__init__(layers=[StepLayer(k, v, rows, positions) for k, v in zip(keys, values, strict=True)])


class PromptLayer(DynamicLayer):
    """One layer that knows keys and values [heads, known, dim] already."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        self.keys, self.values = keys[None], values[None]
        self.is_initialized = True


class PromptCache(Cache):
    """What the model sees of prompts that are known in part."""

    def __init__(self, keys: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        super().__init__(layers=[PromptLayer(k, v) for k, v in zip(keys, values, strict=True)])


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

    def grow(self, keys: Sequence[Tensor], values: Sequence[Tensor], rows: int, length: int) -> None:
        """Hold `rows` rows of `length` tokens at least. Keys and values of each layer, such as [heads, tokens, dim]."""
        if not self.keys:
            kinds = (keys, values)
            self.keys, self.values = ([t.new_empty(0, t.shape[0], 0, t.shape[2]) for t in kind] for kind in kinds)
        self.fit(max(self.slots, power_of_two(rows)), max(self.capacity, whole_columns(length)))

    def store(self, row: int, keys: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        """Put a computed prompt into a row. For each layer [heads, tokens, dim]."""
        for buffer, new in zip(self.keys + self.values, [*keys, *values], strict=True):
            buffer[row, :, : new.shape[1]] = new

    def fit(self, slots: int, capacity: int) -> None:
        """Give the buffers another size; what lies within both sizes stays."""
        if (slots, capacity) == (self.slots, self.capacity):
            return
        kept, columns = min(slots, self.slots), min(capacity, self.capacity)
        for buffers in (self.keys, self.values):
            for index, old in enumerate(buffers):
                # Zeros, since a masked column is still multiplied by 0, and 0 times what lay in memory may be NaN.
                new = old.new_zeros(slots, old.shape[1], capacity, old.shape[3])
                new[:kept, :, :columns] = old[:kept, :, :columns]
                buffers[index] = new

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


def layer_tensors(prefilled: Cache) -> tuple[list[Tensor], list[Tensor]]:
    """Keys and values of a single row, for each layer [heads, tokens, dim]."""
    keys, values = ([getattr(layer, name)[0] for layer in prefilled.layers] for name in ("keys", "values"))
    return keys, values


def power_of_two(number: int) -> int:
    """The least power of two that is not below `number`."""
    return 1 << max(0, number - 1).bit_length()


def whole_columns(length: int) -> int:
    return -(-length // COLUMNS) * COLUMNS
