"""The decoder that computes all rows in one call of OpenVINO's paged attention.

Prompts that begin alike share blocks, as the next turn of a conversation does. A long prompt is prefilled in chunks.
"""

import itertools
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import openvino as ov
import torch

from deployments.contract.errors import OutOfMemory
from deployments.engines.text.decoders.decoder import SCORED, ChunkedPrefill, StepOutput, Verified
from deployments.engines.text.openvino.block_pool import BlockPool, Part
from deployments.engines.text.openvino.kv_memory import Array, KVMemory
from deployments.engines.text.openvino.paging import BLOCK, WANTED
from deployments.system.node_memory import node_memory

MIB = 1 << 20
KEPT_BYTES = (8 * MIB, 64 * MIB)
"""Of blocks kept for later prompts, at least and at most; between them a quarter of the weights."""
SPARE_BYTES = 16 * MIB
"""Memory of free blocks that is not given back: to touch it again costs time."""


class PagedDecoder:
    """`compiled`: what `conversion.convert` made, compiled. `context`: the most tokens of a row."""

    chunk_size = 512
    """Tokens of a long prompt that are computed between two steps of the running rows."""
    prefill_budget = 128
    """So many prompt tokens keep a CPU busy; more would only delay first tokens."""
    joins_rows = True
    draft_budget = 32
    """A token of a call of 32 costs a CPU a tenth of a step of one row; with more it would delay other rows."""

    def __init__(self, compiled: Any, weight_bytes: int, max_rows: int, context: int) -> None:
        self._block_bytes = block_bytes = KVMemory.block_bytes(compiled)
        kept = min(max(KEPT_BYTES[0], weight_bytes // 4), KEPT_BYTES[1]) // block_bytes
        blocks = max(1, min(max_rows * -(-context // BLOCK) + kept, node_memory() // block_bytes))
        self._pool = BlockPool(blocks, kept)
        self._memory = KVMemory(compiled, blocks)
        self._prompts = Call(compiled, self._memory)
        self._steps = StepCall(compiled, self._memory)
        self._texts: list[list[int]] = []  # The tokens of each row whose keys and values its blocks hold.
        self._tables: list[list[int]] = []
        self.shared_tokens = 0

    @property
    def rows(self) -> int:
        return len(self._texts)

    @property
    def nbytes(self) -> int:
        return self._pool.touched * self._block_bytes

    @property
    def use(self) -> float:
        held = BLOCK * sum(map(len, self._tables))
        return sum(map(len, self._texts)) / held if held else 0.0

    def prefill(self, prompts: Sequence[Sequence[int]], tokens: Sequence[int] = ()) -> StepOutput:
        each = [tuple(prompt) for prompt in prompts]
        parts: dict[tuple[int, ...], Part] = {}  # Equal prompts are computed once.
        tables: list[list[int]] = []
        try:
            for prompt in each:
                if prompt in parts:
                    tables.append(self._shared(parts[prompt].table, len(prompt)))
                else:
                    tables.append(self._pool.find(prompt))
                    known = BLOCK * len(tables[-1])
                    parts[prompt] = Part(prompt[known:], known, tables[-1])
                self._grow(tables[-1], len(prompt))
            logits = self._forward([[token] for token in tokens], list(parts.values()))
        except BaseException:
            for table in tables:
                self._pool.release(table)
            raise
        self.shared_tokens += sum(part.known for part in parts.values())
        numbers = {prompt: number for number, prompt in enumerate(parts, len(tokens))}
        wanted = [*range(len(tokens)), *(numbers[prompt] for prompt in each)]
        for prompt, table in zip(each, tables, strict=True):
            for block, own in zip(parts[prompt].table, table, strict=True):
                if own != block:
                    self._memory.copy(block, own)
            self._pool.name(prompt, table)
            self._add(prompt, table)
        return step_output(logits if len(wanted) == len(logits) else logits[wanted])

    def begin_chunked(self, prompt: Sequence[int], each: bool = False) -> ChunkedPrefill:
        chunks = self._chunks(prompt, each)
        next(chunks)  # To where it waits for tokens of the rows.
        return chunks

    def _chunks(self, prompt: Sequence[int], each: bool) -> ChunkedPrefill:
        table, size = ([], SCORED) if each else (self._pool.find(prompt), self.chunk_size)
        known = len(table) * BLOCK
        self.shared_tokens += known
        output: StepOutput | None = None
        try:
            while known < len(prompt):
                tokens = (yield output) or ()
                end = min(known + size, len(prompt))
                self._grow(table, end)
                logits = self._forward([[token] for token in tokens], [Part(prompt[known:end], known, table)], each)
                if not each and end < len(prompt):
                    logits = logits[: len(tokens)]
                output = step_output(logits) if len(logits) else None
                known = end
        except BaseException:
            self._pool.release(table)
            raise
        self._pool.name(prompt, table)
        self._add(prompt, table)
        yield output

    def step(self, tokens: Sequence[int]) -> StepOutput:
        for text, table in zip(self._texts, self._tables, strict=True):
            if len(text) == BLOCK * len(table):
                table.append(self._pool.take())
                self._steps.stale = True
        logits = self._steps(tokens, self._texts, self._tables)
        for text, token in zip(self._texts, tokens, strict=True):
            text.append(token)
        return step_output(logits)

    def verify(self, rows: Sequence[Sequence[int]]) -> Verified:
        try:
            self._reserve(rows)
        except OutOfMemory:  # A proposal is no reason to fail.
            rows = [row[:1] for row in rows]
            self._reserve(rows)
        logits = self._forward(rows, each=True)
        _, best, finite = step_output(logits)
        kept, counts, begin = list[int](), list[int](), 0
        for number, row in enumerate(rows):
            counts.append(1 + sum(itertools.takewhile(bool, map(operator.eq, row[1:], best[begin:]))))
            kept += range(begin, begin + counts[-1])
            begin += len(row)
            self.rewind(number, len(self._texts[number]) - len(row) + counts[-1])
        chosen = logits[: len(kept)] if len(rows) == 1 else logits[kept]  # Without a copy where it can be.
        output = StepOutput(torch.from_numpy(chosen), [best[n] for n in kept], [finite[n] for n in kept])
        return Verified(output, counts)

    def extend(self, rows: Sequence[Sequence[int]]) -> StepOutput:
        """Append tokens to each row, at least one; the logits that follow the last of each."""
        return step_output(self._forward(rows))

    def rewind(self, row: int, length: int) -> None:
        """Take the tokens of a row back that come after `length`."""
        text, table = self._texts[row], self._tables[row]
        needed = -(-length // BLOCK)
        self._pool.release(table[needed:])
        del text[length:], table[needed:]
        self._steps.stale = True

    def _forward(self, rows: Sequence[Sequence[int]], prompts: Sequence[Part] = (), each: bool = False) -> Array:
        """Appends tokens to each row, unless `rows` is empty, and computes parts of prompts, in one call."""
        self._reserve(rows)
        parts = [Part(*row) for row in zip(rows, map(len, self._texts), self._tables, strict=False)]
        logits = self._prompts([*parts, *prompts], each)
        for row, text in zip(rows, self._texts, strict=False):
            text += row
        self._steps.stale = True
        return logits

    def _reserve(self, rows: Sequence[Sequence[int]]) -> None:
        """Blocks for these tokens of each row."""
        for row, text, table in zip(rows, self._texts, self._tables, strict=False):
            self._grow(table, len(text) + len(row))

    def _grow(self, table: list[int], length: int) -> None:
        """Blocks for so many tokens. The table has those that were taken, also where it fails."""
        while BLOCK * len(table) < length:
            table.append(self._pool.take())

    def release(self, row: int, broken: bool = False) -> None:
        text, table = self._texts[row], self._tables[row]
        self._texts[row], self._tables[row] = self._texts[-1], self._tables[-1]
        self._texts.pop()
        self._tables.pop()
        self._steps.stale = True
        if broken:
            self._pool.forget(table)
            self._memory.wipe(table)
        else:
            self._pool.name(text, table)
        self._pool.release(table)
        self._trim(SPARE_BYTES)

    def clear(self) -> None:
        for table in self._tables:
            self._pool.release(table)
        self._texts, self._tables = [], []
        self._pool.drop_kept()
        self._trim(0)

    def close(self) -> None:
        self.clear()
        del self._prompts, self._steps

    def _trim(self, spare_bytes: int) -> None:
        """Give memory of free blocks back, if it is more than that."""
        used = self._pool.used
        if (self._pool.touched - used) * self._block_bytes > spare_bytes:
            self._memory.trim(used)
            self._pool.touched = used

    def _shared(self, table: Sequence[int], length: int) -> list[int]:
        """The whole blocks of an equal prompt; one that is not full is not shared."""
        whole = list(table[: length // BLOCK])
        self._pool.share(whole)
        return whole

    def _add(self, prompt: Sequence[int], table: list[int]) -> None:
        self._texts.append(list(prompt))
        self._tables.append(table)
        self._steps.stale = True


class Call:
    """A call for parts of any lengths. Gives the logits [parts, vocabulary] after the last token of each; with `each`
    [tokens, vocabulary], after each token. They may be read until the next call."""

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
        logits: Array = self._request.infer(share_outputs=True)[0]  # Otherwise they are copied.
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


def step_output(logits: Array) -> StepOutput:
    """As `decoder.step_output`, without torch's threads, which would spin beside OpenVINO's."""
    best = logits.argmax(-1)  # NaN counts as the maximum, so one check sees every bad row.
    finite = np.isfinite(logits[np.arange(len(logits)), best])
    return StepOutput(torch.from_numpy(logits), best.tolist(), finite.tolist())


def _chain(parts: Iterable[Iterable[int]]) -> list[int]:
    return list(itertools.chain.from_iterable(parts))
