"""Which class of transformers computes the texts of a configuration, and how long they may be. Reads no weights."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PretrainedConfig, PreTrainedModel

from deployments.contract.errors import ModelLoadFailed, quoted

log = logging.getLogger(__name__)

UNBOUNDED_CONTEXT = 32_768
"""For models without a longest sequence (Mamba, RWKV)."""
_LENGTHS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "max_sequence_length",
    "seq_length",
    "context_length",
    "model_max_length",
)
_STRETCHED = ("linear", "dynamic", "yarn")
"""Kinds of rope that take a text `factor` times as long as the model was trained on."""
PROBE_TOKENS = 8


def auto_class(config: PretrainedConfig) -> Any:
    """The auto class that reads the model. Raises ModelLoadFailed for one that does not continue texts."""
    if not config.get_text_config(decoder=True).is_encoder_decoder:
        for auto in (AutoModelForCausalLM, AutoModelForImageTextToText):
            if type(config) in auto._model_mapping:
                return auto
    raise ModelLoadFailed(f"a model of type {quoted(config.model_type)} does not continue texts")


def text_part(model: PreTrainedModel) -> PreTrainedModel:
    """Of a model of several kinds of input, its part for texts, without what only pictures and sound need.

    The whole model where there is no class for the part alone, or where the part computes something else. Raises
    ModelLoadFailed where the tokens of a prompt see those that follow (PaliGemma): such a text cannot be continued
    token by token.
    """
    config = model.config.get_text_config(decoder=True)
    kind: Any = AutoModelForCausalLM._model_mapping.get(type(config), None)
    if config is model.config or (isinstance(kind, type) and isinstance(model, kind)):
        return model
    part = _part(model, config, kind) if isinstance(kind, type) else None
    if part is None and not _is_causal(model, config):
        raise ModelLoadFailed(f"a model of type {quoted(model.config.model_type)} does not continue texts")
    return part or model


def _is_causal(model: PreTrainedModel, config: PretrainedConfig) -> bool:
    """Whether the logits of a token are the same without the tokens that follow."""
    ids = torch.arange(min(PROBE_TOKENS, config.vocab_size), device=model.device)[None]
    half = ids.shape[1] // 2
    with torch.inference_mode():
        whole, beginning = model(input_ids=ids).logits[:, :half], model(input_ids=ids[:, :half]).logits
    return bool((whole - beginning).abs().max() <= 0.1 * whole.abs().max())


def _part(model: PreTrainedModel, config: PretrainedConfig, kind: Any) -> PreTrainedModel | None:
    try:
        with torch.device("meta"):
            part: PreTrainedModel = kind(config)
        setattr(part, part.base_model_prefix, model.get_decoder())
        part.set_output_embeddings(model.get_output_embeddings())
        part.generation_config = model.generation_config
        part = part.eval().requires_grad_(False)
        with torch.inference_mode():
            ids = torch.arange(min(PROBE_TOKENS, config.vocab_size), device=model.device)[None]
            equal = torch.equal(part(input_ids=ids).logits, model(input_ids=ids).logits)
    except Exception:  # Whatever it is: the part cannot stand alone.
        log.debug("the text part of %s cannot stand alone", type(model).__name__, exc_info=True)
        return None
    return part if equal else None


def context_of(config: PretrainedConfig) -> int:
    """Tokens of prompt and text together, as the configuration of the text part or the whole one has it."""
    for part in (config.get_text_config(decoder=True), config):
        for name in _LENGTHS:
            length = getattr(part, name, None)
            if isinstance(length, int) and length > 0:
                return max(length, _stretched(getattr(part, "rope_parameters", None), length))
    return UNBOUNDED_CONTEXT


def _stretched(rope: object, length: int) -> int:
    """What a scaled rope makes of the length. Where each kind of layer has its own, the length includes it."""
    if not isinstance(rope, Mapping) or rope.get("rope_type") not in _STRETCHED:
        return length
    return int((rope.get("original_max_position_embeddings") or length) * (rope.get("factor") or 1.0))


def stop_ids(*sources: object) -> frozenset[int]:
    """The tokens that end a text by any of these configurations, their text parts included."""
    ids: set[int] = set()
    for source in sources:
        parts = [source, source.get_text_config(decoder=True)] if isinstance(source, PretrainedConfig) else [source]
        for part in parts:
            eos = getattr(part, "eos_token_id", None)
            ids.update([eos] if isinstance(eos, int) else eos or [])
    return frozenset(ids)
