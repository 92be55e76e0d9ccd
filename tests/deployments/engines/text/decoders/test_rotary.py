"""Positions that depend on a text's length: each row's are those that `generate` gives it alone, in a fresh model."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Phi3Config, PretrainedConfig

from deployments.engines.text.decoders.rotary import depends_on_length, recompute_length
from deployments.engines.text.decoders.single import SingleDecoder

ORIGINAL = 32
NEW = 40
SIZES: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
    "bos_token_id": 0,
    "eos_token_id": None,
    "pad_token_id": 2,
}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0, 8.0, 12.0, 20.0],
    "original_max_position_embeddings": ORIGINAL,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
CONFIGS: dict[str, PretrainedConfig] = {
    "long": Phi3Config(
        **SIZES, max_position_embeddings=128, original_max_position_embeddings=ORIGINAL, rope_parameters=LONG
    ),
    "dynamic": LlamaConfig(**SIZES, max_position_embeddings=ORIGINAL, rope_parameters=DYNAMIC),
}
PROMPTS = [
    [3 + (seed * 7919 + 31 * n) % 250 for n in range(length)] for seed, length in enumerate((10, 31, 32, 33, 60))
]


@pytest.mark.parametrize("rope", CONFIGS)
@torch.inference_mode()
def test_a_text_beyond_the_original_length_is_that_of_generate_whatever_is_beside_it(rope: str) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[rope]).eval()
    expected = []
    for prompt in PROMPTS:
        inputs = torch.tensor([prompt])
        text = deepcopy(model).generate(
            inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=NEW, do_sample=False
        )
        expected.append(text[0, len(prompt) :].tolist())
    decoder = SingleDecoder(model, "past_key_values")
    steps = [decoder.prefill(PROMPTS).logits.argmax(-1).tolist()]
    while len(steps) < NEW:
        steps.append(decoder.step(steps[-1]).logits.argmax(-1).tolist())
    assert [list(text) for text in zip(*steps, strict=True)] == expected


def test_a_rope_for_each_type_of_layer_is_seen() -> None:
    plain = {"rope_type": "default", "rope_theta": 1e4}
    for full, depends in ((DYNAMIC, True), ({"rope_type": "yarn", "factor": 2.0}, False)):
        config: Any = LlamaConfig(**SIZES)
        config.rope_parameters = {"sliding_attention": plain, "full_attention": full}
        assert depends_on_length(config) == depends


def test_only_models_whose_generate_does_so_compute_their_cache_anew() -> None:
    lengths = {rope: recompute_length(AutoModelForCausalLM.from_config(config)) for rope, config in CONFIGS.items()}
    assert lengths == {"long": ORIGINAL + 1, "dynamic": None}
