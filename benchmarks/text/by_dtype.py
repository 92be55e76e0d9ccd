"""`python -m benchmarks.text.by_dtype MODEL DTYPE …`: ours beside OpenVINO GenAI over HTTP, in the same bits.

MODEL: 6M, 134M (Llamas), 0.6B (Qwen3's shape). DTYPE: float32, bfloat16, int8, int4. The peer computes in the precision
that ours does, and as it comes: bfloat16 where the processor has it, keys and values in 8 bits.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, Qwen3Config
from transformers.utils.logging import disable_progress_bar

from benchmarks.contest import Pace, compete
from benchmarks.models import SEED, save_large_llama, save_llama, tokenizer
from benchmarks.report import US, Table
from benchmarks.text.genai import converted, openvino_genai
from benchmarks.text.text import MODEL_ID, POINTS, STREAMED, ours, trial_of

DTYPES = ("float32", "bfloat16", "int8", "int4")


def save_qwen3(folder: Path) -> Path:
    """The shape of Qwen3 0.6 B with random weights in bfloat16, and the small Llama's tokenizer."""
    torch.manual_seed(SEED)
    config = Qwen3Config(
        hidden_size=1024,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        intermediate_size=3072,
        vocab_size=151_936,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


MODELS = {"6M": save_llama, "134M": save_large_llama, "0.6B": save_qwen3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("dtypes", nargs="+", choices=DTYPES, metavar="DTYPE")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8, 16])
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    disable_progress_bar()
    pace = Pace(options.seconds, options.rounds, lead_in_s=1, settle_s=180)
    points = [point for point in POINTS[:3] if point.connections in options.connections]
    for dtype in options.dtypes:
        with tempfile.TemporaryDirectory() as name:
            model = MODELS[options.model](Path(name) / "models" / MODEL_ID)
            (model / "model.yaml").write_text(f"dtype: {dtype}\n", "utf-8")
            place = converted(model, Path(name) / "genai", dtype)
            equal = "bf16" if dtype == "bfloat16" or (options.model == "0.6B" and dtype != "float32") else "f32"
            servers = (ours(model.parent), openvino_genai(place, equal), openvino_genai(place, ""))
            texts: dict[str, list[str]] = {}
            trials = {server.name: trial_of(server, texts, pace, points) for server in servers}
            done = compete(trials, pace.rounds)
        names = [*(point.name for point in points), STREAMED]
        table = Table(f"{options.model}, {dtype}", "tokens/s", names, list(trials), done.results)
        table.notes += [*done.notes, *done.failures]
        same = sum(mine == theirs for mine, theirs in zip(texts[US], texts[servers[1].name], strict=True))
        table.notes.append(f"The same text from both in the same precision: {same} of {len(texts[US])} prompts.")
        print(table.markdown(), flush=True)


if __name__ == "__main__":
    main()
