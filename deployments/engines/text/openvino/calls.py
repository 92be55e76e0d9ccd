"""One call of a compiled model with paged attention: what it is given, and the logits that it gives."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import openvino as ov

from deployments.engines.text.openvino.kv_memory import KVMemory
from deployments.engines.text.openvino.paging import WANTED

Array = np.ndarray[Any, Any]


class Part(NamedTuple):
    """The tokens of one row that a call computes, after `known` earlier ones; `table`: its blocks, for all of them."""

    tokens: Sequence[int]
    known: int
    table: Sequence[int]


class Call:
    """A call for parts of any lengths. Gives the logits [parts, vocabulary] after the last token of each; with `each`
    [tokens, vocabulary], after each token.

    They may be read until the next call.
    """

    def __init__(self, compiled: Any, memory: KVMemory) -> None:
        self._request = compiled.create_infer_request()
        for name, tensor in memory.tensors.items():
            self._request.set_tensor(name, tensor)
        self._names = {name for port in compiled.inputs for name in port.get_names()}
        self._inputs: dict[str, Array] = {}

    def __call__(self, parts: Sequence[Part], each: bool = False) -> Array:
        ends = np.cumsum([len(part.tokens) for part in parts])
        self._set("input_ids", _chain(part.tokens for part in parts), np.int64)
        positions = _chain(range(part.known, part.known + len(part.tokens)) for part in parts)
        self._set("position_ids", positions, np.int64)
        self._set("past_lens", [part.known for part in parts], np.int32)
        self._set("subsequence_begins", [0, *ends], np.int32)
        self._set("block_indices", _chain(part.table for part in parts), np.int32)
        self._set("block_indices_begins", [0, *np.cumsum([len(part.table) for part in parts])], np.int32)
        self._set("max_context_len", max(part.known + len(part.tokens) for part in parts), np.int32)
        self._set(WANTED, range(ends[-1]) if each else ends - 1, np.int64)
        return self._infer()

    def _set(self, name: str, value: Any, element: Any) -> Array:
        """Gives an input its values; what is written into the result later is given too."""
        array = np.array(value, element)
        self._inputs[name] = array  # OpenVINO holds no reference.
        if name in self._names:  # A model without positions, say, has no such input.
            self._request.set_tensor(name, ov.Tensor(array, shared_memory=True))
        return array

    def _infer(self) -> Array:
        self._request.infer()
        logits: Array = self._request.get_output_tensor(0).data
        return logits[:, 0]


class StepCall(Call):
    """A call for one token of each row. Its inputs stay where they are as long as rows and tables do not change."""

    stale = True

    def __call__(  # type: ignore[override]
        self, tokens: Sequence[int], texts: Sequence[Sequence[int]], tables: Sequence[Sequence[int]]
    ) -> Array:
        if self.stale:
            self._bind(texts, tables)
        self._tokens[:] = tokens
        logits = self._infer()
        self._positions += 1
        self._past += 1
        self._longest += 1
        return logits

    def _bind(self, texts: Sequence[Sequence[int]], tables: Sequence[Sequence[int]]) -> None:
        rows, past = len(texts), [len(text) for text in texts]
        self._tokens = self._set("input_ids", [0] * rows, np.int64)
        self._positions = self._set("position_ids", past, np.int64)
        self._past = self._set("past_lens", past, np.int32)
        self._set("subsequence_begins", range(rows + 1), np.int32)
        self._set("block_indices", _chain(tables), np.int32)
        self._set("block_indices_begins", [0, *np.cumsum([len(table) for table in tables])], np.int32)
        self._longest = self._set("max_context_len", max(past) + 1, np.int32)
        self._set(WANTED, range(rows), np.int64)
        self.stale = False


def _chain(parts: Iterable[Iterable[int]]) -> list[int]:
    return list(itertools.chain.from_iterable(parts))
