"""`python -m benchmarks.text.precision [FOLDER]`: what a model loses by fewer bits, on text that it draws itself.

In nats a token, and how often the best token stays the same; fp32 is the measure. And the bytes of its weights, and the
tokens/s of its steps. Without a folder: models/gpt-nano. "134M": a Llama of that size with random weights.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

from benchmarks.models import save_large_llama
from deployments.engines.text.decoders.model import CausalModel
from deployments.engines.text.openvino.artifacts import NotConvertible, read_or_make
from deployments.engines.text.openvino.paged_decoder import PagedDecoder
from deployments.system.artifact_cache import ArtifactCache

NANO = Path(__file__).parents[2] / "models" / "gpt-nano"
TEXTS, LONGEST = 16, 256
DTYPES = ("float32", "bfloat16", "float16", "int8", "int4")
LARGE = "134M"
STEPS = 100


def logits_of(decoder: PagedDecoder, ids: Tensor) -> Tensor:
    """Float [texts * tokens, vocabulary], each before the token it is about."""
    # A common beginning would be computed once, in one row.
    logits = [decoder.prefill(ids[:, :1].tolist()).logits.clone()]
    for column in range(1, ids.shape[1] - 1):
        logits.append(decoder.step(ids[:, column].tolist()).logits.clone())
    return torch.stack(logits, 1).flatten(0, 1)


def rate(decoder: PagedDecoder, rows: int) -> float:
    """Tokens/s of the median step."""
    decoder.clear()
    best = decoder.prefill([[row + 1] for row in range(rows)]).best
    seconds = []
    for _ in range(STEPS):
        begun = time.perf_counter()
        best = decoder.step(best).best
        seconds.append(time.perf_counter() - begun)
    return rows / statistics.median(seconds)


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
    if folder.name == LARGE:
        folder = save_large_llama(Path(tempfile.mkdtemp(prefix=LARGE)))
    reference = CausalModel.load(folder, "cpu", "float32")
    ids = drawn(reference)
    plain: Tensor = reference.model(input_ids=ids).logits
    asked, expected = ids[:, 1:].flatten(), plain[:, :-1].flatten(0, 1).argmax(-1)
    print(f"{folder.name}, {len(asked)} tokens of its own drawn text\n")
    print(
        "| dtype | nats a token | same best token as fp32 | bytes | tokens/s, 1 row | 16 rows |"
        "\n|---|---|---|---|---|---|"
    )
    cache = ArtifactCache(Path(tempfile.mkdtemp(prefix="converted-")), 1 << 34)
    for dtype in DTYPES:
        try:
            compiled, about = read_or_make(folder, dtype, torch.get_num_threads(), cache)
        except NotConvertible as refused:
            print(f"| {dtype} | not by OpenVINO: {refused} | | | | |", flush=True)
            continue
        decoder = PagedDecoder(compiled, 0, TEXTS, about.context)
        logits = logits_of(decoder, ids)
        nats = torch.nn.functional.cross_entropy(logits, asked).item()
        same = (logits.argmax(-1) == expected).float().mean().item()
        size, one, many = about.weight_bytes / 1e6, rate(decoder, 1), rate(decoder, TEXTS)
        print(f"| {dtype} | {nats:.4f} | {same:.1%} | {size:.1f} MB | {one:,.0f} | {many:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
