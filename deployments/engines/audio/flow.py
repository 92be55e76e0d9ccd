"""How the library's own loop lets other requests be computed, ends early, and records what it was prompted with."""

from typing import Any, Protocol

import torch
from transformers import LogitsProcessor, StoppingCriteria


class Flow(Protocol):
    """How a request that takes long lets others be computed, and ends early."""

    def check(self) -> None:
        """Raises where the request is over. Called after each token."""

    def pause(self) -> None:
        """Between windows: other work may be done. Raises as `check` does."""


class Straight:
    """The flow of a request beside which there is no other."""

    def check(self) -> None: ...

    def pause(self) -> None: ...


class Prompt(LogitsProcessor):
    """Notes the tokens that come before the first one that is chosen: the language is one of them."""

    def __init__(self) -> None:
        self.tokens: list[int] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if not self.tokens:
            self.tokens = input_ids[0].tolist()
        return scores


class Ends(StoppingCriteria):
    """Asks after each token whether the request is over."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **options: Any) -> torch.Tensor:
        self._flow.check()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)
