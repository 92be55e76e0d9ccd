"""`python -m benchmarks.text.speculation [lookup|draft]`: greedy tokens/s without and with proposed tokens.

"lookup": prompt lookup, on an ordinary prompt and one that repeats a sentence, with models/gpt-nano, a Llama of 6 M
parameters with random weights, and ones of 6 M and 134 M that go on with the text that they have seen in any case.

"draft": Llamas of 134 M parameters in 18 layers with their first DRAFT_LAYERS as the draft model. What the other
layers add is scaled down, so that the draft model agrees more or less often: no trained pair of so small models is at
hand. And models/gpt-nano with itself: what a draft model costs that is as slow as its target.
"""

import asyncio
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from benchmarks.models import VOCABULARY, save_large_llama, save_llama
from benchmarks.text.bare_engine import complete
from benchmarks.text.text import PROMPTS
from deployments.engines.text.engine import TextGenerationEngine
from deployments.engines.text.speculation.draft_model import DraftFolder
from deployments.system.artifact_cache import ArtifactCache
from serve_app.bench.loops import generate

NANO = Path(__file__).parents[2] / "models" / "gpt-nano"
REPEATED = [" ".join([prompt] * 4) for prompt in PROMPTS]
KINDS = {", ordinary": PROMPTS, ", repeated": REPEATED}
CONNECTIONS, TOKENS, ROUNDS = (1, 4, 16), 96, 3
LEAD_IN_S, SECONDS = 0.2, 0.8
PERIOD = 32
DRAFT_LAYERS = 2
SHARES = (0.02, 0.1)


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


@torch.no_grad()
def make_pair(folder: Path, share: float) -> tuple[Path, DraftFolder]:
    """A Llama whose layers after the first DRAFT_LAYERS add `share` of what random ones do, and one of those alone."""
    target, small = save_large_llama(folder / "target"), folder / "draft"
    model = AutoModelForCausalLM.from_pretrained(target)
    for layer in model.model.layers[DRAFT_LAYERS:]:
        layer.self_attn.o_proj.weight *= share
        layer.mlp.down_proj.weight *= share
    model.save_pretrained(target)
    model.model.layers = model.model.layers[:DRAFT_LAYERS]
    model.config.num_hidden_layers = DRAFT_LAYERS
    model.config.layer_types = None
    model.save_pretrained(small)
    AutoTokenizer.from_pretrained(target).save_pretrained(small)
    return target, DraftFolder("draft", small, None)


def rate(engine: TextGenerationEngine, prompts: Sequence[str], connections: int) -> float:
    """Tokens/s."""

    async def ask(prompt: str, length: int) -> int:
        return (await complete(engine, prompt, length))[1]

    counted = asyncio.run(generate(ask, prompts, connections, (TOKENS,), LEAD_IN_S, SECONDS))
    return counted.rate


def report(
    name: str, folder: Path, cache: ArtifactCache, kinds: dict[str, list[str]], draft: DraftFolder | None = None
) -> None:
    engines = [
        TextGenerationEngine.load(folder, cache=cache),
        TextGenerationEngine.load(folder, cache=cache, prompt_lookup=draft is None, draft=draft),
    ]
    stats = engines[1].stats
    for kind, prompts in kinds.items():
        cells = []
        drafted, accepted = stats.draft_tokens, stats.accepted_tokens
        for connections in CONNECTIONS:
            rounds = [[rate(engine, prompts, connections) for engine in engines] for _ in range(ROUNDS)]
            without, proposing = (statistics.median(rates) for rates in zip(*rounds, strict=True))
            cells.append(f"{without:,.0f} → {proposing:,.0f} ({proposing / without:.2f}×)")
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
        if sys.argv[1:] != ["draft"]:
            models = {
                "gpt-nano": NANO,
                "6 M, random": save_llama(root / "random"),
                "6 M, periodic": make_periodic(save_llama(root / "periodic")),
                "134 M, periodic": make_periodic(save_large_llama(root / "large")),
            }
            for name, folder in models.items():
                report(name, folder, cache, {"": PROMPTS} if "periodic" in name else KINDS)
        if sys.argv[1:] != ["lookup"]:
            for share in SHARES:
                target, draft = make_pair(root / str(share), share)
                report(f"134 M, later layers × {share}", target, cache, KINDS, draft)
            report("gpt-nano, itself as draft", NANO, cache, {"": PROMPTS}, DraftFolder("itself", NANO, None))


if __name__ == "__main__":
    main()
