"""A configuration's class, text part, context and ends, wherever it keeps them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GPT2Config,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MambaConfig,
    MistralConfig,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    T5Config,
    ViTConfig,
)

from deployments.contract.errors import ModelLoadFailed
from deployments.engines.text.folder.architecture import auto_class, context_of, stop_ids, text_part
from tests.support.text_models import CONTEXT, PROMPTS, VOCABULARY, ask, byte_level_tokenizer, load

TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.3,
    "eos_token_id": 1,
}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


def gemma3() -> PreTrainedModel:
    text = TEXT | {"head_dim": 8, "sliding_window": 16}
    return Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=text, vision_config=VISION, mm_tokens_per_image=4, image_token_index=300)
    )


def llava() -> PreTrainedModel:
    vision = VISION | {"model_type": "clip_vision_model", "projection_dim": 32}
    text = TEXT | {"model_type": "llama"}
    return LlavaForConditionalGeneration(LlavaConfig(text_config=text, vision_config=vision, image_token_index=300))


def qwen2_5_vl() -> PreTrainedModel:
    """Has no class for its text part alone."""
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
    vision = {"depth": 1, "hidden_size": 32, "out_hidden_size": 32, "num_heads": 2, "intermediate_size": 32}
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config=TEXT | {"rope_parameters": rope}, vision_config=vision)
    )


@pytest.mark.compiles
@pytest.mark.parametrize("make", [gemma3, llava, qwen2_5_vl])
def test_the_text_of_a_model_for_pictures_and_texts_is_that_of_the_whole_model(make: Any, tmp_path: Path) -> None:
    torch.manual_seed(7)
    whole = make().eval()
    whole.save_pretrained(tmp_path)
    tokenizer = byte_level_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    ids = tokenizer(PROMPTS[0], return_tensors="pt").input_ids
    expected = whole.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    engine = load(tmp_path)
    try:
        assert engine.loop.max_length == CONTEXT
        assert ask(engine, PROMPTS[0], 12).text == tokenizer.decode(expected, skip_special_tokens=True)
        if make is not qwen2_5_vl:
            assert engine.resident_bytes - engine.loop.nbytes < whole.get_memory_footprint()
    finally:
        engine.close()


def test_a_model_whose_prompt_sees_what_follows_is_refused() -> None:
    text = TEXT | {"model_type": "gemma", "head_dim": 8}
    vision = VISION | {"model_type": "siglip_vision_model", "projection_dim": 32}
    config = PaliGemmaConfig(text_config=text, vision_config=vision, projection_dim=32, image_token_index=300)
    torch.manual_seed(7)
    with pytest.raises(ModelLoadFailed, match="type 'paligemma' does not continue texts"):
        text_part(PaliGemmaForConditionalGeneration(config).eval())


@pytest.mark.parametrize("config", [ViTConfig(), T5Config()])
def test_what_does_not_continue_texts_is_refused_by_its_type(config: PretrainedConfig) -> None:
    with pytest.raises(ModelLoadFailed, match=f"type '{config.model_type}' does not continue texts"):
        auto_class(config)


def llama(rope: dict[str, object], length: int = 1000) -> LlamaConfig:
    return LlamaConfig(max_position_embeddings=length, rope_parameters=rope | {"rope_theta": 1e4})


@pytest.mark.parametrize(
    ("config", "context"),
    [
        (GPT2Config(n_positions=77), 77),
        (MistralConfig(max_position_embeddings=99, sliding_window=8), 99),
        (MambaConfig(), 32_768),
        (Gemma3Config(text_config={"max_position_embeddings": 123}), 123),
        (LlavaConfig(text_config={"model_type": "llama", "max_position_embeddings": 55}), 55),
        (llama({"rope_type": "default"}), 1000),
        (llama({"rope_type": "linear", "factor": 4.0}), 4000),
        (llama({"rope_type": "dynamic", "factor": 2.0}), 2000),
        (llama({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 800}), 3200),
        (llama({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 800}, 3200), 3200),
        (
            llama(
                {
                    "rope_type": "llama3",
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 125,
                }
            ),
            1000,
        ),
    ],
)
def test_the_context_is_read_wherever_the_configuration_keeps_it(config: PretrainedConfig, context: int) -> None:
    assert context_of(config) == context


def test_a_text_ends_with_any_of_the_ids_that_its_configurations_name() -> None:
    nested = Gemma3Config(text_config={"eos_token_id": [4, 5]})
    nested.eos_token_id = 6
    assert stop_ids(LlamaConfig(eos_token_id=2), nested, object()) == {2, 4, 5, 6}
