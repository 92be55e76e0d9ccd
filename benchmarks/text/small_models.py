"""A small configuration of each type of text model, and a tokenizer for all."""

import inspect
import itertools
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

VOCABULARY = 320
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
    "is_decoder": True,
    **dict.fromkeys(
        ("hidden_size", "d_model", "n_embd", "emb_dim", "dim_model", "embed_dim", "word_embed_proj_dim"), 32
    ),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim", "n_inner", "d_inner"), 64),
    **dict.fromkeys(("dense_intermediate_size", "ffn_hidden_size", "shared_expert_intermediate_size", "d_ff"), 64),
    **dict.fromkeys(("moe_intermediate_size", "expert_ffn_hidden_size", "intermediate_size_mlp"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "n_head_kv"), 2),
    **dict.fromkeys(("head_dim", "kv_channels", "global_head_dim", "rotary_dim"), 8),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"), 256),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk", "num_selected_experts", "top_k_experts"), 2),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "first_k_dense_replace"), 1),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "o_lora_rank", "dt_rank", "lru_width"), 32),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("sliding_window", "attention_window_size", "window_size"), 16),
    **dict.fromkeys(("state_size", "mamba_d_state", "ssm_state_size", "mamba_state_dim"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "linear_num_key_heads", "linear_num_value_heads"), 4),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 8),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim"), 16),
    **dict.fromkeys(("initializer_range", "init_std"), 0.3),
}
"""Values of configurations, by the names that they have in any of them."""

OWN: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "cohere_compass_text": {"layer_types": ["sliding_attention", "full_attention"]},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "layer_types": ["mamba", "attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"head_dim": 16, "n_groups": 4},
    "nemotron_h": {"n_groups": 4, "mamba_num_heads": 4, "mamba_head_dim": 16},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"], "layer_types": ["recurrent", "attention"]},
    "reformer": {"axial_pos_embds_dim": [16, 16], "axial_pos_shape": [16, 16]},
    "xmod": {"default_language": "en_XX"},
    "zaya": {"num_experts_per_tok": 1},
}
"""What single types need beside."""

WORDS = "Once upon a time the quick brown fox jumps over the lazy dog and then some more words follow it. "


def small_config(model_type: str) -> Any:
    return _small(CONFIG_MAPPING[model_type])


def _small(kind: Any) -> Any:
    names = inspect.signature(kind.__init__).parameters
    values = {name: value for name, value in SMALL.items() if name in names}
    whole = kind()
    for name in whole.sub_configs:
        if (part := getattr(whole, name, None)) is not None:
            values[name] = _small(type(part)).to_dict()
    if isinstance(kinds := getattr(whole, "layer_types", None), list) and "layer_types" in names:
        distinct = list(dict.fromkeys(kinds))
        values["layer_types"] = distinct if len(distinct) > 1 else distinct * 2
        values["num_hidden_layers"] = len(values["layer_types"])
    if "kv_lora_rank" in names or "mla_config" in names:  # Keys and values are made for each head.
        values["num_key_value_heads"] = values["num_attention_heads"]
    return kind(**values | {name: value for name, value in OWN.get(whole.model_type, {}).items() if name in names})


def tokenizer() -> PreTrainedTokenizerFast:
    """A token for each byte, and for each two letters that follow each other in WORDS."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    vocabulary = {token: n for n, token in enumerate(["<s>", "</s>", "<pad>", *sorted(alphabet)])}
    merges = []
    for pair in dict.fromkeys(itertools.pairwise(WORDS)):
        if len(vocabulary) < VOCABULARY and " " not in pair:
            vocabulary["".join(pair)] = len(vocabulary)
            merges.append(pair)
    for n in range(len(vocabulary), VOCABULARY):
        vocabulary[f"<{n}>"] = n
    made = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
