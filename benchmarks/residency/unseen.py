"""How long a text model never seen takes to its first answer: `python -m benchmarks.residency unseen [TYPE …]`.

Of each type, some folders with weights of their own; their files were read just before. Each is answered by a replica
that has served other models and never this one: it is validated, loaded and asked. "settled" is the time until the
engine that is named computes it. By hand means `from_pretrained` of model and tokenizer and a text of as many tokens,
in a process that has imported transformers.
"""

import asyncio
import gc
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from benchmarks.residency.cold import CONTESTS, FORMATS, PROMPT, TOKENS, first_answer, settle
from benchmarks.text.small_models import small_config, tokenizer
from deployments.contract.types import TextGeneration
from deployments.replica.model_replica import ReplicaOptions
from deployments.repository.local import Repository
from serve_app.bench.machine import machine

ORDINARY = ("llama", "qwen2", "qwen3", "mistral", "gpt2", "opt")
HYBRID = ("falcon_h1", "bamba", "lfm2", "mamba")
ROUNDS = 5
SEED = 5
SHARE, MORE_S = 1.3, 2.0
"""The goal: at most this share of the time by hand, and so much more."""
SIZES = {"hidden_size": 256, "intermediate_size": 768, "n_embd": 256, "ffn_dim": 768, "word_embed_proj_dim": 256}
"""Where a type has these names: some MB of weights."""


def save(model_type: str, folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    config = small_config(model_type)
    if model_type in ORDINARY:
        for name in SIZES.keys() & config.to_dict().keys():
            setattr(config, name, SIZES[name])
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


async def compare(root: Path, types: Sequence[str]) -> bool:
    """Whether each type kept to the goal."""
    given = CONTESTS[0]
    options = ReplicaOptions(given.family, root, FORMATS, given.family.options(), root.parent / "cache")
    replica = given.replica(options)
    kept = True
    first = save("gpt_neox", root / "another", SEED)
    await first_answer(replica, Repository(root, FORMATS).models()[first.name], request(first.name))
    given.by_hand(first)
    await asyncio.to_thread(settle, replica)
    for model_type in types:
        ours, by_hand, settled, engine = [], [], [], ""
        for number in range(ROUNDS):
            folder = save(model_type, root / f"{model_type}-{number}", SEED + number)
            model = Repository(root, FORMATS).models()[folder.name]
            by_hand.append(given.by_hand(folder).answered)
            begun = time.perf_counter()
            ours.append(await first_answer(replica, model, request(folder.name)))
            await asyncio.to_thread(settle, replica)
            settled.append(time.perf_counter() - begun)
            [engine] = [status.notes[-1] for status in replica.residency.statuses() if status.name == folder.name]
            await replica.residency.unload(model)
            gc.collect()
        measured, hand = statistics.median(ours), statistics.median(by_hand)
        within = measured <= SHARE * hand + MORE_S
        kept &= within
        print(
            f"| {model_type} | {measured:.2f} | {min(ours):.2f}–{max(ours):.2f} | {hand:.2f} | "
            f"{SHARE * hand + MORE_S:.2f} | {'yes' if within else 'no'} | {statistics.median(settled):.1f} | "
            f"{engine} |",
            flush=True,
        )
    await replica.residency.close()
    return kept


def request(model_id: str) -> TextGeneration:
    return TextGeneration(model_id=model_id, prompt=PROMPT, max_tokens=TOKENS)


def unseen(types: Sequence[str]) -> None:
    print(machine())
    print(f"seconds, median of {ROUNDS} folders a type\n")
    print(
        "| type | ours | from – to | by hand | at most | kept | settled | |\n|---|--:|--:|--:|--:|---|--:|---|",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        kept = asyncio.run(compare(Path(folder) / "models", types or (*ORDINARY, *HYBRID)))
    print("every type kept to the goal" if kept else "the goal was missed")
