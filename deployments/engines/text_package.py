"""A compiled decode step from its package on disk, lent the weights of the model that serves already."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deployments.engines.text_compile import StepModule

_spare: defaultdict[Path, list[Any]] = defaultdict(list)
"""Packages that nobody uses now, for the next model of their kind: a library that was loaded stays in the process."""


class CompiledStep:
    """It works on the tensors of `eager`, or on `blocks` in their place; no copy of them is made."""

    def __init__(self, package: Path, eager: StepModule, blocks: Mapping[str, Tensor]) -> None:
        self._spare = _spare[package]
        self._loader: Any = self._spare.pop() if self._spare else _load(package)
        tensors: dict[str, Tensor] = dict(eager.named_parameters(remove_duplicate=False))
        tensors |= {**dict(eager.named_buffers(remove_duplicate=False)), **blocks}
        self._lent = {name: tensors[name].detach() for name in self._loader.get_constant_fqns()}
        self._loader.load_constants(self._lent, False, True, True)

    def __call__(
        self, tokens: Tensor, positions: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor]
    ) -> Sequence[Tensor]:
        given: Sequence[Tensor] = self._loader.run([tokens, positions, *keys, *values])
        return given

    def close(self) -> None:
        """Lets go of the weights. It may not be called any more."""
        # torch never drops what it was lent: a model's whole weights would stay. So each is made to hold nothing.
        for tensor in self._lent.values():
            with torch.inference_mode(tensor.is_inference()):
                nothing = torch.empty(0, dtype=tensor.dtype)
                tensor.data = nothing.to_mkldnn() if tensor.is_mkldnn else nothing
        self._spare.append(self._loader)
        self._lent, self._loader = {}, None


def _load(package: Path) -> Any:
    return torch._C._aoti.AOTIModelPackageLoader(str(package), "model", False, 1, -1)
