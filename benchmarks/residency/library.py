"""The models of the residency benchmarks: unequal in size, from small to ten times that."""

import random
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from benchmarks.models import VOCABULARY, tokenizer

LIBRARY_SEED = 20


def library(root: Path, models: int) -> dict[str, int]:
    """Names, and what each model declares: its weights, and a quarter more for its cache."""
    rng = random.Random(LIBRARY_SEED)
    words = tokenizer()
    sizes = {}
    for number in range(models):
        hidden = min(512, max(96, int(rng.lognormvariate(5.3, 0.5)) // 32 * 32))
        config = LlamaConfig(
            num_hidden_layers=2,
            hidden_size=hidden,
            intermediate_size=hidden * 3,
            num_attention_heads=4,
            vocab_size=VOCABULARY,
            max_position_embeddings=64,
            bos_token_id=None,
            eos_token_id=None,
        )
        torch.manual_seed(number)
        folder = root / f"m{number:02d}"
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        words.save_pretrained(folder)
        weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        sizes[folder.name] = weights + weights // 4 + 2**20
    return sizes
