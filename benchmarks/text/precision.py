"""`python -m benchmarks.text.precision [FOLDER]`: what a model loses by fewer bits, on text that it draws itself.

In nats a token, and how often the best token stays the same; fp32 is the measure. Without a folder: models/gpt-nano.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

from deployments.engines.probes import ProbeCache
from deployments.engines.text.model import CausalModel

NANO = Path(__file__).parents[2] / "models" / "gpt-nano"
TEXTS, LONGEST = 16, 256
DTYPES = ("float32", "bfloat16", "float16", "int8")


def logits_of(loaded: CausalModel, ids: Tensor) -> Tensor:
    """Float [texts * tokens, vocabulary], each before the token it is about."""
    logits: Tensor = loaded.model(input_ids=ids).logits
    return logits[:, :-1].float().flatten(0, 1)


def drawn(loaded: CausalModel) -> Tensor:
    """Texts [texts, tokens] at temperature 1, each from another token."""
    torch.manual_seed(0)
    starts = torch.arange(TEXTS)[:, None] * 7 % loaded.vocabulary
    tokens = min(loaded.context, LONGEST)
    texts: Tensor = loaded.model.generate(  # type: ignore[operator]  # transformers types it as a tensor
        starts,
        attention_mask=torch.ones_like(starts),
        max_length=tokens,
        min_length=tokens,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        pad_token_id=0,
    )
    return texts


@torch.inference_mode()
def main() -> None:
    disable_progress_bar()
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else NANO
    reference = CausalModel.load(folder, "cpu", "float32", ProbeCache(None))
    ids = drawn(reference)
    asked, expected = ids[:, 1:].flatten(), logits_of(reference, ids).argmax(-1)
    print(f"{folder.name}, {len(asked)} tokens of its own drawn text\n")
    print("| dtype | nats a token | same best token as fp32 | bytes |\n|---|---|---|---|")
    for dtype in DTYPES:
        loaded = CausalModel.load(folder, "cpu", dtype, ProbeCache(None))
        logits = logits_of(loaded, ids)
        nats = torch.nn.functional.cross_entropy(logits, asked).item()
        same = (logits.argmax(-1) == expected).float().mean().item()
        print(f"| {dtype} | {nats:.4f} | {same:.1%} | {loaded.nbytes / 1e6:.1f} MB |", flush=True)


if __name__ == "__main__":
    main()
