"""A causal language model from a folder. Knows tensors, not text or requests."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from deployments.contract.errors import ModelLoadFailed
from deployments.engines.loading import LOCAL, check_report, configuration, leave_file
from deployments.engines.probes import ProbeCache
from deployments.engines.text.folder.architecture import auto_class, context_of, stop_ids, text_part
from deployments.engines.text.layers.int8 import quantise_linears
from deployments.engines.text.layers.linear import may_pack, swap_linears, trace_linears

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
SHORT = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "int8": "float32"}  # int8 is computed in float32.


@dataclass(frozen=True, slots=True)
class CausalModel:
    """A loaded model and facts of its configuration. `context` counts the tokens of prompt and text.

    `linears`: the form of its linear layers: "plain", "int8", or packed, as JSON of the siblings that became one.
    """

    model: PreTrainedModel
    context: int
    vocabulary: int
    stop_ids: frozenset[int]
    linears: str = "plain"

    @classmethod
    def load(cls, folder: Path, device: str, dtype: str | None, probes: ProbeCache) -> "CausalModel":
        """Raises ModelLoadFailed."""
        computed = "auto" if dtype is None else DTYPES.get(SHORT.get(dtype, dtype))
        if computed is None:
            raise ModelLoadFailed(f"no dtype {dtype!r}; there are float32, float16, bfloat16 and int8")
        if not (folder / "config.json").is_file():
            raise ModelLoadFailed("there is no config.json")
        if not any(folder.glob("*.safetensors")):
            raise ModelLoadFailed("there are no safetensors weights")
        config = configuration(folder)
        if dtype == "int8":
            model, linears = _read(folder, config, device, computed), "int8"
            quantise_linears(model)
        else:
            model, linears = _packed(lambda: _read(folder, config, device, computed), probes)
        if linears != "plain":
            leave_file(model)
        ends = stop_ids(model.generation_config, config)
        return cls(model, context_of(config), _vocabulary(model), ends, linears)

    def ending_at(self, stop_ids: Iterable[int]) -> "CausalModel":
        """The same model, whose texts end with any of these tokens too."""
        more = {token for token in stop_ids if 0 <= token < self.vocabulary}
        return replace(self, stop_ids=self.stop_ids | more)

    @property
    def nbytes(self) -> int:
        """Measured: the storage of every parameter and buffer, shared ones once."""
        tensors = list(_tensors(self.model))
        packed = [t for t in tensors if t.is_mkldnn]  # These have no storage that could be asked.
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if not t.is_mkldnn}
        return sum(storages.values()) + sum(t.numel() * t.element_size() for t in packed)


def _read(folder: Path, config: PretrainedConfig, device: str, dtype: Any) -> PreTrainedModel:
    """Raises ModelLoadFailed."""
    # transformers would raise for weights of another shape; they are refused below, with the reason.
    safe = LOCAL | {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
    model, report = auto_class(config).from_pretrained(folder, config=config, dtype=dtype, **safe)
    check_report(report)
    read: PreTrainedModel = model.to(device).eval().requires_grad_(False)
    return text_part(read)


def _packed(read: Callable[[], PreTrainedModel], probes: ProbeCache) -> tuple[PreTrainedModel, str]:
    """The model with packed linear layers if its logits still match: some models read their layers' weights directly.

    One that does not match is read again, since packing frees the plain weights.
    """
    model = read()
    if not may_pack(model):
        return model, "plain"
    if (known := probes.recall("linears")) is not None:
        if known != "plain":
            swap_linears(model, json.loads(known), "packed")
        return model, known
    ids = torch.arange(min(8, _vocabulary(model)))[None]
    with torch.inference_mode():
        before = _versions(model)
        expected, siblings = trace_linears(model, ids)
        # RWKV changes its weights at its first forward, which has to come before packing, so it is probed each time.
        steady = _versions(model) == before
        for attempt in dict.fromkeys((siblings, ())):
            swap_linears(model, attempt, "packed")
            if _matches(model, ids, expected):
                packed = json.dumps(attempt)
                return model, probes.remember("linears", packed) if steady else packed
            model = read()
    return model, probes.remember("linears", "plain")


def _matches(model: PreTrainedModel, ids: Tensor, expected: Tensor) -> bool:
    try:
        return bool((model(input_ids=ids).logits - expected).abs().max() <= 1e-3 * expected.abs().max())
    except Exception:  # Whatever it is: it does not match.
        return False


def _versions(model: PreTrainedModel) -> list[int]:
    """Change whenever a tensor is written. Tensors that were made in inference mode have none."""
    return [tensor._version for tensor in _tensors(model) if not tensor.is_inference()]


def _tensors(model: PreTrainedModel) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def _vocabulary(model: PreTrainedModel) -> int:
    embeddings: Any = model.get_input_embeddings()
    return int(embeddings.weight.shape[0])
