"""How the library's own loop lets other requests be computed, ends early, and records what it was prompted with."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from transformers import LogitsProcessor, StoppingCriteria
from transformers.modeling_outputs import BaseModelOutput


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


class RememberedEncoder:
    """In the place of an encoder's `forward`. The library encodes a window up to three times: for its language, for
    silence, and for its text."""

    def __init__(self, encoder: Any) -> None:
        self.converted: Callable[[Sequence[torch.Tensor]], list[torch.Tensor]] | None = None
        """What takes its place for one window."""
        self._forward = encoder.forward
        self._known: tuple[torch.Tensor, Any] | None = None
        encoder.forward = self

    def __call__(self, input_features: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        known = self._known
        if known is None or known[0].shape != input_features.shape or not torch.equal(known[0], input_features):
            if self.converted is not None and len(input_features) == 1:
                encoded: Any = BaseModelOutput(last_hidden_state=self.converted([input_features])[0])
            else:
                encoded = self._forward(input_features, *arguments, **options)
            self._known = known = (input_features, encoded)
        return known[1]

    @property
    def encoded(self) -> torch.Tensor:
        """What was encoded last."""
        assert self._known is not None
        sound: torch.Tensor = self._known[1].last_hidden_state
        return sound

    def forget(self) -> None:
        self._known = None

    def close(self) -> None:
        """Drops the models."""
        self._known = self._forward = self.converted = None
