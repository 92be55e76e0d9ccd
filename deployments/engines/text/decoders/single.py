"""The decoders of models whose rows cannot share a forward, and of closed engines."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from deployments.contract.errors import Unavailable
from deployments.engines.text.decoders.decoder import ChunkedPrefill, StepOutput, step_output


class SingleDecoder:
    """One forward for each row, with the memory the model itself makes; without one, all tokens again each time."""

    def __init__(self, model: PreTrainedModel, carried: str | None) -> None:
        self._model = model
        self._carried = carried
        self._ids: list[list[int]] = []
        self._memory: list[Any] = []

    @property
    def rows(self) -> int:
        return len(self._ids)

    @property
    def nbytes(self) -> int:
        return 0

    @property
    def use(self) -> float:
        return 0.0

    @property
    def shared_tokens(self) -> int:
        return 0

    @property
    def chunk_size(self) -> int | None:
        return None

    @property
    def prefill_budget(self) -> int:
        return 0

    def begin_chunked(self, prompt: Sequence[int]) -> ChunkedPrefill:
        raise NotImplementedError("every prompt is computed at once")

    def prefill(self, prompts: Sequence[Sequence[int]]) -> StepOutput:
        steps = []
        for prompt in prompts:
            logits, memory = self._forward(prompt, None)
            steps.append(logits)
            self._ids.append(list(prompt))
            self._memory.append(memory)
        return step_output(torch.cat(steps))

    def step(self, tokens: Sequence[int]) -> StepOutput:
        steps = []
        for row, token in enumerate(tokens):
            self._ids[row].append(token)
            fresh = self._ids[row] if self._carried is None else [token]
            logits, self._memory[row] = self._forward(fresh, self._memory[row])
            steps.append(logits)
        return step_output(torch.cat(steps))

    def _forward(self, ids: Sequence[int], memory: Any) -> tuple[Tensor, Any]:
        """Logits [1, vocabulary] after the last id, and the model's memory of all ids so far."""
        carried = {} if self._carried is None or memory is None else {self._carried: memory}
        inputs = torch.tensor([list(ids)], device=self._model.device)
        output = self._model(input_ids=inputs, use_cache=self._carried is not None, **carried)
        return output.logits[:, -1], output[self._carried] if self._carried else None

    def release(self, row: int, broken: bool = False) -> None:
        ids, memory = self._ids.pop(), self._memory.pop()
        if row < self.rows:
            self._ids[row], self._memory[row] = ids, memory

    def clear(self) -> None:
        self._ids, self._memory = [], []

    def close(self) -> None:
        self.clear()


class ClosedDecoder:
    """The decoder of a closed engine: it holds nothing."""

    rows = 0
    nbytes = 0
    use = 0.0
    shared_tokens = 0
    chunk_size = None
    prefill_budget = 0

    def prefill(self, prompts: Sequence[Sequence[int]]) -> StepOutput:
        raise Unavailable("the model is being unloaded")

    def begin_chunked(self, prompt: Sequence[int]) -> ChunkedPrefill:
        raise Unavailable("the model is being unloaded")

    def step(self, tokens: Sequence[int]) -> StepOutput:
        raise Unavailable("the model is being unloaded")

    def release(self, row: int, broken: bool = False) -> None: ...

    def clear(self) -> None: ...

    def close(self) -> None: ...
