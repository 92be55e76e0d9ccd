"""A causal language model from a folder. Knows tensors, not text or requests."""

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from deployments.contract.errors import ModelLoadFailed
from deployments.engines.loading import LOCAL, check_report, configuration, placed
from deployments.engines.text.decoders.rotary import depends_on_length
from deployments.engines.text.folder.architecture import auto_class, context_of, stop_ids, text_part

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
ROUNDED = ("int8", "int4")
"""What OpenVINO computes with weights of fewer bits, and float32 otherwise."""
SHORT = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", **dict.fromkeys(ROUNDED, "float32")}


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """`context` counts the tokens of prompt and text, `vocabulary` the rows of the embedding."""

    context: int
    vocabulary: int
    stop_ids: frozenset[int]

    def ending_at(self, stop_ids: Iterable[int]) -> Self:
        """The same model, whose texts end with any of these tokens too."""
        more = {token for token in stop_ids if 0 <= token < self.vocabulary}
        return replace(self, stop_ids=self.stop_ids | more)


@dataclass(frozen=True, slots=True)
class CausalModel(ModelFacts):
    """A loaded model of transformers."""

    model: PreTrainedModel

    @classmethod
    def load(cls, folder: Path, device: str, dtype: str | None) -> "CausalModel":
        """Raises ModelLoadFailed."""
        computed = "auto" if dtype is None else DTYPES.get(SHORT.get(dtype, dtype))
        if computed is None:
            raise ModelLoadFailed(f"no dtype {dtype!r}; there are float32, float16, bfloat16, int8 and int4")
        if not (folder / "config.json").is_file():
            raise ModelLoadFailed("there is no config.json")
        if not any(folder.glob("*.safetensors")):
            raise ModelLoadFailed("there are no safetensors weights")
        config = configuration(folder)
        model = _read(folder, config, device, computed)
        ends = stop_ids(model.generation_config, config)
        return cls(context_of(config), _vocabulary(model), ends, model)

    @property
    def nbytes(self) -> int:
        """Measured: the storage of every parameter and buffer, shared ones once."""
        tensors = (*self.model.parameters(), *self.model.buffers())
        storages = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}
        return sum(storages.values())

    @property
    def positions_depend_on_length(self) -> bool:
        """Whether one row of a batch changes the positions of another, or a longer text those of its beginning."""
        return depends_on_length(self.model.config) or bool(self.model.config.is_encoder_decoder)


def _read(folder: Path, config: PretrainedConfig, device: str, dtype: Any) -> PreTrainedModel:
    """Raises ModelLoadFailed."""
    # transformers would raise for weights of another shape; they are refused below, with the reason.
    safe = LOCAL | {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
    model, report = auto_class(config).from_pretrained(folder, config=config, dtype=dtype, **safe)
    check_report(report)
    read: PreTrainedModel = placed(model, folder, device).requires_grad_(False)
    return text_part(read)


def inputs_of(model: PreTrainedModel, tokens: Sequence[int], known: int = 0) -> dict[str, Tensor]:
    """What `generate` gives the forward for the tokens of one row, after `known` earlier ones."""
    given = {"input_ids": torch.tensor([list(tokens)], device=model.device)}
    if takes(model, "position_ids"):  # Some models count otherwise where they are not told.
        given["position_ids"] = torch.arange(known, known + len(tokens), device=model.device)[None]
    return given


@lru_cache(maxsize=64)
def _arguments(forward: Any) -> frozenset[str]:
    return frozenset(inspect.signature(forward).parameters)


def takes(model: PreTrainedModel, *names: str) -> bool:
    """Whether its forward has these arguments."""
    return _arguments(type(model).forward) >= set(names)


def _vocabulary(model: PreTrainedModel) -> int:
    embeddings: Any = model.get_input_embeddings()
    return int(embeddings.weight.shape[0])
