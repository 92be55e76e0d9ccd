"""Reads configurations, and builds models one at a time, since `from_pretrained` is not thread-safe.

While it builds, transformers changes torch's default dtype and functions of `torch.nn.init` for the whole process.
Two builds at once gave tensors of the wrong dtype in 96 of 160 models, and the changes stayed. Only the building is
serialised, a tenth of a second for 15 MB; the rest of a load runs beside others.
"""

import functools
import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from deployments.contract.errors import ModelLoadFailed, quoted

ADAPTER = "adapter"
"""The folder in a model's folder that holds an adapter of it."""
LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""Nothing is fetched, and no code of the folder is run."""

_one_at_a_time = threading.RLock()


def configuration(folder: Path) -> PretrainedConfig:
    """The folder's, for a class of the library. Raises ModelLoadFailed for a type that the library does not know.

    The library chooses how attention is computed: what the folder asks for may be a kernel that would be fetched.
    """
    values, _ = PretrainedConfig.get_config_dict(folder, local_files_only=True)
    kind = values.get("model_type")
    if kind is not None and kind not in CONFIG_MAPPING:
        why = f"transformers {transformers.__version__} knows no models of type {quoted(str(kind))}"
        raise ModelLoadFailed(f"{why}, and code of the folder is not run")
    config: PretrainedConfig = AutoConfig.from_pretrained(folder, **LOCAL)
    config._attn_implementation = None
    config._experts_implementation = None
    return config


def merge_adapter(model: Any, folder: Path) -> Any:
    """The model with the adapter in its folder merged into it, if there is one. Raises ModelLoadFailed."""
    if not (folder / ADAPTER).is_dir():
        return model
    from peft import PeftModel, get_peft_model_state_dict  # Takes two seconds to import.

    adapted = PeftModel.from_pretrained(model, str(folder / ADAPTER))
    with safe_open(folder / ADAPTER / "adapter_model.safetensors", "pt") as weights:
        unfit = get_peft_model_state_dict(adapted, save_embedding_layers=False).keys() ^ set(weights.keys())
    if unfit:  # peft only warns.
        raise ModelLoadFailed(f"the adapter does not fit its base: {len(unfit)} tensors ({min(unfit)[-64:]} …)")
    return adapted.merge_and_unload()


def check_report(report: Mapping[str, Collection[Any]]) -> None:
    """Of a model that was just read: the library would answer with random numbers in the place of what did not fit.

    Raises ModelLoadFailed.
    """
    for key, fault in (("missing_keys", "are missing"), ("mismatched_keys", "have another shape")):
        if found := sorted(entry if isinstance(entry, str) else entry[0] for entry in report[key]):
            what = f"{len(found)} tensors {fault} ({found[0][-64:]} …)"
            raise ModelLoadFailed(f"the weights do not fit config.json: {what}; take both from one place")


def placed(model: Any, folder: Path, device: str) -> Any:
    """The model on the device, in evaluation mode, with its adapter merged. Raises ModelLoadFailed."""
    model = merge_adapter(model, folder)
    if torch.device(device).type == "cpu":
        _leave_file(model)
    return model.to(device).eval()


def _leave_file(model: PreTrainedModel) -> None:
    """Copies the tensors that lie in the mapping of the weight file. The mapping is freed with its last tensor.

    Where a mapped file is cut or written anew in place, as `cp` does it, the process ends with SIGBUS.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()


def build_in_turn() -> None:
    """Replaces `from_pretrained`, for every engine of this process. May be called more than once."""
    method = PreTrainedModel.from_pretrained.__func__  # type: ignore[attr-defined]
    if getattr(method, "in_turn", False):
        return

    @functools.wraps(method)
    def in_turn(cls: Any, *arguments: Any, **options: Any) -> Any:
        with _one_at_a_time:
            return method(cls, *arguments, **options)

    in_turn.in_turn = True  # type: ignore[attr-defined]
    PreTrainedModel.from_pretrained = classmethod(in_turn)  # type: ignore[method-assign, assignment]
