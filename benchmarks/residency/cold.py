"""How long a model that is not in memory takes to its first answer: `python -m benchmarks.residency cold`.

A text and an image model of about 15 MB, each in a replica whose process has served another one before. By hand means
`from_pretrained` of the model and of its tokenizer or processor in the same process, and what that answers first.
"""

import asyncio
import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForCausalLM, AutoModelForImageClassification, AutoTokenizer

from benchmarks.models import jpeg, save_llama, save_mobilenet
from deployments.contract.types import ImageClassification, TextGeneration
from deployments.families.image_classification.family import IMAGE_CLASSIFICATION
from deployments.families.image_classification.replica import ImageClassificationReplica
from deployments.families.table import FAMILIES
from deployments.families.text_generation.family import TEXT_GENERATION
from deployments.families.text_generation.replica import TextGenerationReplica
from deployments.replica.family import Family, model_formats
from deployments.replica.model_replica import ModelReplica, ReplicaOptions
from deployments.repository.local import Repository
from deployments.repository.model import Model
from serve_app.bench.machine import machine

FORMATS = model_formats(FAMILIES)
ROUNDS = 7
TOKENS = 1
PROMPT = "stone river cloud"
PICTURE = jpeg(320, 240, 1)


@dataclass
class ByHand:
    """Seconds until the model is built, and until it has answered."""

    built: float
    answered: float


def text_by_hand(folder: Path) -> ByHand:
    started = time.perf_counter()
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    built = time.perf_counter() - started
    inputs = tokenizer(PROMPT, return_tensors="pt", return_token_type_ids=False)
    ids = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
    tokenizer.decode(ids[0])
    return ByHand(built, time.perf_counter() - started)


def image_by_hand(folder: Path) -> ByHand:
    started = time.perf_counter()
    model: Any = AutoModelForImageClassification.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder)
    built = time.perf_counter() - started
    with torch.inference_mode():
        inputs = processor(Image.open(BytesIO(PICTURE)).convert("RGB"), return_tensors="pt")
        model(**inputs).logits.softmax(-1).topk(5)
    return ByHand(built, time.perf_counter() - started)


@dataclass(frozen=True)
class Contest:
    family: Family
    replica: type[ModelReplica[Any, Any]]
    request: Any
    by_hand: Callable[[Path], ByHand]
    save: Callable[[Path], Path]


CONTESTS = (
    Contest(
        TEXT_GENERATION,
        TextGenerationReplica,
        TextGeneration(model_id="cold", prompt=PROMPT, max_tokens=TOKENS),
        text_by_hand,
        lambda folder: save_llama(folder, layers=4, hidden=256, intermediate=768, heads=4),
    ),
    Contest(
        IMAGE_CLASSIFICATION,
        ImageClassificationReplica,
        ImageClassification(model_id="cold", image_data=PICTURE),
        image_by_hand,
        save_mobilenet,
    ),
)


async def first_answer(replica: ModelReplica[Any, Any], model: Model, request: Any) -> float:
    """Seconds."""
    started = time.perf_counter()
    async with replica.residency.lease(model, 60) as engine:
        await replica.answer(request, model, engine, None)
    return time.perf_counter() - started


def settle(replica: ModelReplica[Any, Any]) -> None:
    """Wait for what a first load starts in the background: "…, being compiled", "…, being converted"."""
    while any(", being c" in note for status in replica.residency.statuses() for note in status.notes):
        time.sleep(0.1)


async def contest(given: Contest, root: Path) -> None:
    for name in ("warm", "cold"):
        given.save(root / name)
    config = root / "warm" / "config.json"
    config.write_text(config.read_text() + "\n")  # another content
    options = ReplicaOptions(
        given.family, root, FORMATS, given.family.options(), root.parent / f"{given.family.name}-cache"
    )
    replica = given.replica(options)
    models = Repository(root, FORMATS).models()
    await first_answer(replica, models["warm"], given.request)
    await asyncio.to_thread(settle, replica)
    given.by_hand(root / "warm")
    unseen = await first_answer(replica, models["cold"], given.request)
    await asyncio.to_thread(settle, replica)
    seen, by_hand = [], []
    for _ in range(ROUNDS):
        await replica.residency.unload(models["cold"])
        gc.collect()
        seen.append(await first_answer(replica, models["cold"], given.request))
        by_hand.append(given.by_hand(root / "cold"))
    await replica.residency.close()
    ours = statistics.median(seen)
    built = statistics.median(hand.built for hand in by_hand)
    answered = statistics.median(hand.answered for hand in by_hand)
    size = models["cold"].weight_bytes / 1e6
    print(
        f"| {given.family.name}, {size:.1f} MB | {unseen * 1e3:.0f} | {ours * 1e3:.0f} | {built * 1e3:.0f} | "
        f"{answered * 1e3:.0f} | {ours / built:.2f}× | {ours / answered:.2f}× |",
        flush=True,
    )


def cold() -> None:
    print(machine())
    print(f"milliseconds, median of {ROUNDS}; a text of {TOKENS} tokens, a picture of 320×240\n")
    print("| | never seen before | seen before | by hand, built | answered | ÷ built | ÷ answered |")
    print("|---|--:|--:|--:|--:|--:|--:|", flush=True)
    for given in CONTESTS:
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(contest(given, Path(folder) / "models"))
