"""A draft model: a smaller model with the same tokens proposes how a text goes on."""

import itertools
import logging
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import torch

from deployments.contract.errors import ModelLoadFailed
from deployments.engines.text.decoders.decoder import ChunkedPrefill, Decoder, StepOutput
from deployments.engines.text.decoders.model import ModelFacts
from deployments.engines.text.openvino.artifacts import read_or_make
from deployments.engines.text.openvino.paged_decoder import PagedDecoder
from deployments.engines.text.speculation.proposer import NoProposer, Pace, Proposer, Text
from deployments.system.artifact_cache import ArtifactCache
from deployments.system.worker_process import RequestFailed

LONGEST = 8
"""Tokens of a proposal. Each is a step of the draft model, unlike those of prompt lookup."""

log = logging.getLogger(__name__)


class DraftFolder(NamedTuple):
    """Where a draft model lies, and the dtype that its model.yaml names."""

    name: str
    folder: Path
    dtype: str | None


class DraftDecoder(Decoder, Protocol):
    """A decoder that takes tokens back."""

    def extend(self, rows: Sequence[Sequence[int]]) -> StepOutput: ...

    def rewind(self, row: int, length: int) -> None: ...


@dataclass(slots=True)
class Row:
    """A row of the draft model: it holds `known` tokens of the text, and `ahead`, proposed after them."""

    text: Text
    known: int
    ahead: list[int] = field(default_factory=list)


class DraftModel:
    """Of all texts of one decoder. Each has a row of the draft model, but for those that do not propose.

    The texts are those of the other model: its rows follow them, and give up what was proposed and not taken.
    """

    def __init__(
        self, name: str, decoder: DraftDecoder, facts: ModelFacts, vocabulary: int, weight_bytes: int = 0
    ) -> None:
        """`vocabulary`: of the model that it proposes to. The rows beyond the tokenizer's tokens may differ."""
        self.note = f"draft model {name}"
        self.weight_bytes = weight_bytes
        self._decoder = decoder
        self._context = facts.context
        self._vocabulary = min(facts.vocabulary, vocabulary)
        self._knows_all = facts.vocabulary >= vocabulary
        self._rows: list[Row] = []  # Row i of the decoder belongs to _rows[i].
        self._joining: dict[Text, tuple[ChunkedPrefill, int]] = {}  # What has no row yet, and its tokens.
        self._paces: dict[Text, Pace] = {}
        self._failed = False

    @property
    def nbytes(self) -> int:
        return self._decoder.nbytes

    def propose(self, texts: Sequence[Text], budget: int) -> list[list[int]] | None:
        if self._failed:
            return None
        each = min(LONGEST, budget // len(texts))
        self._paces = {text: self._paces.get(text) or Pace(LONGEST) for text in texts if text.draft_limit}
        wanted = {}
        for text, pace in self._paces.items():
            most = min(each, text.draft_limit, pace.most(len(text.tokens)))
            if most and self._can_follow(text):
                wanted[text] = most
        try:
            drafts = self._drafts(wanted)
        except Exception:  # A proposal is no reason to fail.
            log.exception("the draft model fails; it proposes nothing from now on")
            self.note += ", which failed"
            self._failed = True
            self._release_others({}, broken=True)
            self._decoder.clear()
            return None
        for text, draft in drafts.items():
            self._paces[text].proposed = len(draft)
        return [drafts.get(text, []) for text in texts] if any(drafts.values()) else None

    def rest(self) -> None:
        self._paces = {}
        self._release_others({})

    def close(self) -> None:
        self._rows, self._joining = [], {}
        self._decoder.close()

    def _can_follow(self, text: Text) -> bool:
        fits = len(text.tokens) + LONGEST <= self._context
        return fits and (self._knows_all or max(text.tokens) < self._vocabulary)

    def _drafts(self, wanted: Mapping[Text, int]) -> dict[Text, list[int]]:
        self._release_others(wanted)
        self._join(wanted)
        if not self._rows:
            return {}
        output = self._decoder.extend([self._follow(number) for number in range(len(self._rows))])
        steps = [_best(output)]
        while len(steps) < max(wanted[row.text] for row in self._rows):
            steps.append(_best(self._decoder.step(steps[-1])))
        drafts = {}
        for row, draft in zip(self._rows, zip(*steps, strict=True), strict=True):
            row.ahead = list(draft[:-1])  # The last one was chosen, and not computed.
            taken = itertools.takewhile(self._vocabulary.__gt__, draft[: wanted[row.text]])
            drafts[row.text] = list(taken)
        return drafts

    def _follow(self, number: int) -> list[int]:
        """Takes back what is not in the text; the tokens of the text, at least one, that the row does not have."""
        row = self._rows[number]
        tokens = row.text.tokens
        right = sum(itertools.takewhile(bool, map(operator.eq, row.ahead, tokens[row.known :])))
        length = min(row.known + right, len(tokens) - 1)
        self._decoder.rewind(number, length)
        row.known = len(tokens)
        return tokens[length:]

    def _join(self, wanted: Mapping[Text, int]) -> None:
        """Computes texts that have no row yet: so many tokens that the others do not wait for long."""
        have_rows = {row.text for row in self._rows}
        for text in wanted:
            if text not in have_rows and text not in self._joining:
                known = text.tokens[:-1]  # Without the last one, so that there is one to follow.
                self._joining[text] = self._decoder.begin_chunked(known), len(known)
        budget = self._decoder.prefill_budget
        while self._joining and budget > 0:
            text, (chunks, length) = next(iter(self._joining.items()))
            budget -= min(length, self._decoder.chunk_size or length)
            if next(chunks):
                del self._joining[text]
                self._rows.append(Row(text, length))

    def _release_others(self, wanted: Mapping[Text, int], broken: bool = False) -> None:
        for number in reversed(range(len(self._rows))):
            if self._rows[number].text not in wanted:
                self._decoder.release(number, broken)
                last = self._rows.pop()
                if number < len(self._rows):
                    self._rows[number] = last
        self._joining = {text: joining for text, joining in self._joining.items() if text in wanted}


def load_draft(draft: DraftFolder, vocabulary: int, max_rows: int, cache: ArtifactCache) -> Proposer:
    """`vocabulary`, `max_rows`: of the model that it proposes to. Raises ModelLoadFailed where it cannot be loaded; one
    that OpenVINO does not compute proposes nothing."""
    try:
        compiled, about = read_or_make(draft.folder, draft.dtype, torch.get_num_threads(), cache)
    except Exception as failure:
        kind, _, message = str(failure).partition(": ")
        if isinstance(failure, RequestFailed) and kind == ModelLoadFailed.__name__:
            raise ModelLoadFailed(f"its draft model: {message}") from None
        log.warning("the draft model %s: %s: %s", draft.name, type(failure).__name__, failure)
        return NoProposer(f"without the draft model {draft.name}, which OpenVINO does not compute")
    decoder = PagedDecoder(compiled, about.weight_bytes, max_rows, about.context)
    return DraftModel(draft.name, decoder, about.facts, vocabulary, about.weight_bytes)


def _best(output: StepOutput) -> list[int]:
    if not all(output.finite):
        raise ArithmeticError("its logits are not finite")
    return output.best
