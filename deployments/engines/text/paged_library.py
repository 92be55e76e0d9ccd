"""What transformers' continuous batching is made with: pages, its configuration, and our choice of the next token."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessorList
from transformers.generation.continuous_batching.requests import FutureRequestState
from transformers.generation.continuous_batching.utils import find_head_dim, find_num_key_value_heads
from transformers.generation.logits_process import LogitsProcessorList
from transformers.utils.import_utils import is_flash_attn_2_available, is_flash_attn_3_available

from deployments.engines.text.decoders.model import CausalModel

PAGE = {"cuda": 256, "cpu": 32}  # Tokens; flash attention reads pages of 256.
STEP_TOKENS = 512  # Of one step, so that a long prompt does not delay the requests that run.
LEAST_CACHE_BYTES = 64 << 20


def pages(loaded: CausalModel, max_rows: int) -> tuple[int, int, int]:
    """Tokens in a page, pages, and bytes of a page.

    Pages enough for `max_rows` whole contexts, or as many bytes as the weights have.
    """
    model, config = loaded.model, loaded.model.config.get_text_config()
    page = PAGE[model.device.type]
    heads, dim = find_num_key_value_heads(config), find_head_dim(config)
    page_bytes = 2 * page * config.num_hidden_layers * heads * dim * model.dtype.itemsize
    affordable = max(loaded.nbytes, LEAST_CACHE_BYTES) // page_bytes
    return page, max(2, min(max_rows * -(-loaded.context // page) + 1, affordable)), page_bytes


def configuration(page: int, pages: int, max_rows: int) -> ContinuousBatchingConfig:
    return ContinuousBatchingConfig(
        page_size=page,
        num_blocks=pages,
        max_batch_tokens=max(STEP_TOKENS, max_rows),
        max_requests_per_batch=max_rows,
        # The token of one step decides who is in the next, so that a step cannot be recorded or prepared ahead.
        use_async_batching=False,
        use_cuda_graph=False,
        # Never kernels out of the network.
        auto_switch_to_flash=is_flash_attn_2_available() or is_flash_attn_3_available(),
    )


class NextTokenProcessor(ContinuousBatchingLogitsProcessorList):
    """A logits processor that makes our next token the best one of each row.

    `scheduled` is called before each step, `next_tokens` with the names and the logits of rows that get a token.
    """

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
