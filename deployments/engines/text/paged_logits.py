"""Where the library of `text_paged` would warp logits, each token is chosen by us."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessorList
from transformers.generation.continuous_batching.requests import FutureRequestState
from transformers.generation.logits_process import LogitsProcessorList


class ChoosingProcessor(ContinuousBatchingLogitsProcessorList):
    """Stands where the library warps logits, and leaves the chosen token of each row as the best one."""

    def __init__(
        self,
        prepared: Callable[[Sequence[FutureRequestState]], None],
        choose: Callable[[Sequence[str], Tensor], Sequence[int]],
    ) -> None:
        super().__init__(LogitsProcessorList())
        self.do_processing = True
        self._prepared = prepared
        self._choose = choose
        self._names: list[str] = []

    def prepare_tensor_args(self, requests_in_batch: list[FutureRequestState], arg_storage: Tensor) -> Tensor:
        self._names = [future.state.request_id for future in requests_in_batch if future.has_new_token]
        self._prepared(requests_in_batch)
        return arg_storage

    def __call__(self, input_ids: Tensor, scores: Tensor, logits_processor_args: Tensor) -> Tensor:
        if self._names:
            tokens = self._choose(self._names, scores[: len(self._names)])
            rows = torch.arange(len(tokens), device=scores.device)
            scores[rows, torch.tensor(tokens, device=scores.device)] = torch.inf
        return scores
