"""The decoder of models whose rows cannot share a forward."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from deployments.engines.text.decoders.decoder import SCORED, ChunkedPrefill, StepOutput, Verified, step_output
from deployments.engines.text.decoders.model import inputs_of
from deployments.engines.text.decoders.rotary import depends_on_length, recompute_length, reset_frequencies


class SingleDecoder:
    """One forward for each row, with the state that the model returns; without a state, all tokens again each time."""

    nbytes = 0
    use = 0.0
    shared_tokens = 0
    chunk_size = None
    prefill_budget = 0
    joins_rows = False
    draft_budget = 0

    def __init__(self, model: PreTrainedModel, state_name: str | None) -> None:
        self._model = model
        self._state_name = state_name
        self._resets = depends_on_length(model.config)
        self._recompute_length = recompute_length(model)
        self._ids: list[list[int]] = []
        self._states: list[Any] = []

    @property
    def rows(self) -> int:
        return len(self._ids)

    def begin_chunked(self, prompt: Sequence[int], each: bool = False) -> ChunkedPrefill:
        """Computes the whole prompt at once, and gives its logits in parts."""
        logits, state = self._forward(prompt, None)
        *parts, last = torch.split(logits, SCORED)
        yield from map(step_output, parts)
        self._ids.append(list(prompt))
        self._states.append(state)
        yield step_output(last)

    def prefill(self, prompts: Sequence[Sequence[int]], tokens: Sequence[int] = ()) -> StepOutput:
        assert not tokens
        steps = []
        for prompt in prompts:
            logits, state = self._forward(prompt, None)
            steps.append(logits[-1:])
            self._ids.append(list(prompt))
            self._states.append(state)
        return step_output(torch.cat(steps))

    def step(self, tokens: Sequence[int]) -> StepOutput:
        # A forward may change a state and fail: then each text is computed anew, and no token has been added.
        known, self._states = self._states, [None] * self.rows
        texts = [[*ids, token] for ids, token in zip(self._ids, tokens, strict=True)]
        steps, states = [], []
        for ids, state in zip(texts, known, strict=True):
            anew = state is None or len(ids) == self._recompute_length
            past = 0 if anew else len(ids) - 1
            logits, state = self._forward(ids[past:], None if anew else state, past)
            steps.append(logits[-1:])
            states.append(state)
        self._ids, self._states = texts, states
        return step_output(torch.cat(steps))

    def verify(self, rows: Sequence[Sequence[int]]) -> Verified:
        raise NotImplementedError("no state of a model goes back to an earlier token")

    def _forward(self, ids: Sequence[int], state: Any, known: int = 0) -> tuple[Tensor, Any]:
        """Logits [ids, vocabulary] after each id, and the model's state after them; `known` tokens came before."""
        carried = {} if self._state_name is None or state is None else {self._state_name: state}
        if self._resets:
            reset_frequencies(self._model)
        inputs = inputs_of(self._model, ids, known)
        output = self._model(**inputs, use_cache=self._state_name is not None, **carried)
        return output.logits[0], output[self._state_name] if self._state_name else None

    def release(self, row: int, broken: bool = False) -> None:
        ids, state = self._ids.pop(), self._states.pop()
        if row < self.rows:
            self._ids[row], self._states[row] = ids, state

    def clear(self) -> None:
        self._ids, self._states = [], []

    def close(self) -> None:
        self.clear()
        del self._model
