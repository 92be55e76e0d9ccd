"""Rotary position embeddings whose frequencies depend on a text's length. One module computes those of all texts."""

from collections.abc import Iterator, Mapping
from typing import Any

from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel

LENGTH_DEPENDENT = ("dynamic", "longrope")


def depends_on_length(config: PretrainedConfig) -> bool:
    """Whether a longer text changes the positions of its own beginning."""
    return any(rope.get("rope_type") in LENGTH_DEPENDENT for rope in _ropes(config))


def recompute_length(model: PreTrainedModel) -> int | None:
    """The length in tokens at which `generate` computes the cache anew: Phi's models change to long factors there."""
    config: Any = model.config.get_text_config()
    if not any(rope.get("rope_type") == "longrope" for rope in _ropes(config)):
        return None
    kind: Any = type(model)
    if kind.prepare_inputs_for_generation is GenerationMixin.prepare_inputs_for_generation:
        return None
    original = getattr(config, "original_max_position_embeddings", None)
    return original + 1 if isinstance(original, int) else None


def reset_frequencies(model: PreTrainedModel) -> None:
    """Frequencies as they were loaded: those of a dynamic RoPE stay as the longest text before left them."""
    for module in model.modules():
        if hasattr(module, "original_max_seq_len") and hasattr(module, "rope_type"):
            for prefix, rope_type in _kinds(module):
                if "dynamic" in rope_type:
                    original = getattr(module, f"{prefix}original_inv_freq")
                    module.register_buffer(f"{prefix}inv_freq", original, persistent=False)
                    setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)


def _kinds(module: Any) -> Iterator[tuple[str, str]]:
    """Prefixes of a rotary module's attributes, and the kind of RoPE: one for all layers, or one for each type."""
    if isinstance(module.rope_type, Mapping):
        yield from ((f"{layer_type}_", kind) for layer_type, kind in module.rope_type.items())
    else:
        yield "", module.rope_type


def _ropes(config: PretrainedConfig) -> Iterator[Mapping[str, Any]]:
    """The parameters of RoPE: one set for all layers, or one for each type of layer."""
    rope = getattr(config.get_text_config(), "rope_parameters", None) or {}
    yield from [rope] if "rope_type" in rope else (kind for kind in rope.values() if isinstance(kind, Mapping))
