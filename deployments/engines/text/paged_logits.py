"""A logits processor for transformers' continuous batching that makes our next token the best one of each row."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessorList
from transformers.generation.continuous_batching.requests import FutureRequestState
from transformers.generation.logits_process import LogitsProcessorList


class NextTokenProcessor(ContinuousBatchingLogitsProcessorList):
    """`scheduled` is called before each step, `next_tokens` with the names and the logits of rows that get a token."""

    def __init__(
        self,
        scheduled: Callable[[Sequence[FutureRequestState]], None],
        next_tokens: Callable[[Sequence[str], Tensor], Sequence[int]],
    ) -> None:
        super().__init__(LogitsProcessorList())
        self.do_processing = True
        self._scheduled = scheduled
        self._next_tokens = next_tokens
        self._names: list[str] = []

    def prepare_tensor_args(self, requests_in_batch: list[FutureRequestState], arg_storage: Tensor) -> Tensor:
        self._names = [future.state.request_id for future in requests_in_batch if future.has_new_token]
        self._scheduled(requests_in_batch)
        return arg_storage

    def __call__(self, input_ids: Tensor, scores: Tensor, logits_processor_args: Tensor) -> Tensor:
        if self._names:
            tokens = self._next_tokens(self._names, scores[: len(self._names)])
            rows = torch.arange(len(tokens), device=scores.device)
            scores[rows, torch.tensor(tokens, device=scores.device)] = torch.inf
        return scores
