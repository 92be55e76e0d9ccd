"""`python -m benchmarks.text.speculation [FOLDER ...]`: greedy tokens/s without and with prompt lookup.

For each folder an ordinary prompt and one that repeats a sentence. Without folders: models/gpt-nano, a Llama of 6 M
parameters with random weights, and ones of 6 M and 134 M that go on with the text that they have seen in any case.
"""

import asyncio
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from benchmarks.models import VOCABULARY, save_large_llama, save_llama
from benchmarks.text.bare_engine import complete
from benchmarks.text.text import PROMPTS
from deployments.engines.text.engine import TextGenerationEngine
from deployments.system.artifact_cache import ArtifactCache
from serve_app.bench.loops import generate

NANO = Path(__file__).parents[2] / "models" / "gpt-nano"
REPEATED = [" ".join([prompt] * 4) for prompt in PROMPTS]
KINDS = {", ordinary": PROMPTS, ", repeated": REPEATED}
CONNECTIONS, TOKENS, ROUNDS = (1, 4, 16), 96, 3
LEAD_IN_S, SECONDS = 0.2, 0.8
PERIOD = 32


@torch.no_grad()
def make_periodic(folder: Path) -> Path:
    """Each token is followed by one that depends on nothing else, so that texts repeat themselves after PERIOD tokens.
    The work is that of any other weights."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    tokens = torch.arange(VOCABULARY)
    following = tokens // PERIOD * PERIOD + (tokens + 1) % PERIOD
    model.lm_head.weight[following] = model.model.embed_tokens.weight[tokens]
    model.save_pretrained(folder)
    return folder


def rate(engine: TextGenerationEngine, prompts: Sequence[str], connections: int) -> float:
    """Tokens/s."""

    async def ask(prompt: str, length: int) -> int:
        return (await complete(engine, prompt, length))[1]

    counted = asyncio.run(generate(ask, prompts, connections, (TOKENS,), LEAD_IN_S, SECONDS))
    return counted.rate


def report(name: str, folder: Path, cache: ArtifactCache, kinds: dict[str, list[str]]) -> None:
    engines = [TextGenerationEngine.load(folder, cache=cache, prompt_lookup=lookup) for lookup in (False, True)]
    stats = engines[1].stats
    for kind, prompts in kinds.items():
        cells = []
        drafted, accepted = stats.draft_tokens, stats.accepted_tokens
        for connections in CONNECTIONS:
            rounds = [[rate(engine, prompts, connections) for engine in engines] for _ in range(ROUNDS)]
            without, with_lookup = (statistics.median(rates) for rates in zip(*rounds, strict=True))
            cells.append(f"{without:,.0f} → {with_lookup:,.0f} ({with_lookup / without:.2f}×)")
        share = (stats.accepted_tokens - accepted) / max(1, stats.draft_tokens - drafted)
        print(f"| {name}{kind} | {' | '.join(cells)} | {share:.0%} |", flush=True)
    for engine in engines:
        engine.close()


def main() -> None:
    disable_progress_bar()
    print(f"| tokens/s at requests | {' | '.join(map(str, CONNECTIONS))} | proposed tokens that were right |")
    print(f"|---|{'---|' * (len(CONNECTIONS) + 1)}")
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        cache = ArtifactCache(root / "converted", 1 << 34)
        if sys.argv[1:]:
            models = {Path(folder).name: Path(folder) for folder in sys.argv[1:]}
        else:
            models = {
                "gpt-nano": NANO,
                "6 M, random": save_llama(root / "random"),
                "6 M, periodic": make_periodic(save_llama(root / "periodic")),
                "134 M, periodic": make_periodic(save_large_llama(root / "large")),
            }
        for name, folder in models.items():
            report(name, folder, cache, {"": PROMPTS} if "periodic" in name else KINDS)


if __name__ == "__main__":
    main()
