"""Every type of text model, held to transformers' own answers: `python -m benchmarks.compat`.

Five prompts at once, of three lengths, 40 greedy tokens each, have to be what `generate` gives. Where its two best
logits lie within 1e-4 the tokens before count.
"""

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from benchmarks.outcomes import Outcome, one_line
from benchmarks.text.small_models import VOCABULARY, small_config, tokenizer
from deployments.contract.chunk import Chunk
from deployments.contract.errors import ServingError
from deployments.contract.types import SamplingOptions
from deployments.engines.text.engine import TextGenerationEngine
from deployments.engines.text.openvino import convert_worker
from deployments.engines.text.request import Event

TOKENS = 40
LENGTHS = (3, 20, 90)
PROMPTS = 5


def prompts(length: int) -> list[list[int]]:
    return [[3 + (seed * 7919 + 31 * n) % (VOCABULARY - 70) for n in range(length + seed)] for seed in range(PROMPTS)]


@torch.inference_mode()
def expected(folder: Path) -> dict[int, list[tuple[list[int], bool]]]:
    """By length of the prompts: the tokens, and whether they are all, up to the first choice that hangs on rounding."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    return {length: [_generated(model, prompt) for prompt in prompts(length)] for length in LENGTHS}


def _generated(model: Any, prompt: list[int]) -> tuple[list[int], bool]:
    answer = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=TOKENS,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )
    best = torch.cat(answer.logits).float().topk(2).values
    ties = ((best[:, 0] - best[:, 1]) < 1e-4 * best[:, 0].abs().clamp(min=1)).nonzero().flatten().tolist()
    tokens = answer.sequences[0, len(prompt) :].tolist()
    return (tokens[: ties[0]], False) if ties else (tokens, True)


def answers(engine: TextGenerationEngine, length: int) -> list[list[int]]:
    """The tokens that follow each prompt, all asked at once. Raises ServingError."""
    listeners = [Listener() for _ in range(PROMPTS)]
    requests = [
        engine.submit(prompt, TOKENS, SamplingOptions(), listener, stream=False)
        for prompt, listener in zip(prompts(length), listeners, strict=True)
    ]
    for listener in listeners:
        listener.wait()
    return [request.tokens[request.prompt_tokens :] for request in requests]


class Listener:
    """Takes the events of one request."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._failure: ServingError | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, ServingError):
            self._failure = event
        if not isinstance(event, Chunk):
            self._ended.set()

    def wait(self) -> None:
        self._ended.wait()
        if self._failure:
            raise self._failure


def examine(model_type: str, folder: Path) -> Outcome:
    torch.manual_seed(3)
    try:
        config = small_config(model_type)
        AutoModelForCausalLM.from_config(config).eval().save_pretrained(folder)
        tokenizer().save_pretrained(folder)
    except Exception as failure:
        return Outcome("not made", detail=one_line(failure))
    try:
        wanted = expected(folder)
    except Exception as failure:
        return Outcome("not answered", detail=one_line(failure).replace(str(folder), "the folder"))
    started = time.perf_counter()
    try:
        engine = TextGenerationEngine.load(folder)
    except ServingError as failure:
        return Outcome("refused", detail=failure.message)
    took_s = time.perf_counter() - started
    try:
        name = engine.runtime_info[0]
        for length, expected_tokens in wanted.items():
            for n, (found, (tokens, whole)) in enumerate(zip(answers(engine, length), expected_tokens, strict=True)):
                if (found if whole else found[: len(tokens)]) != tokens:
                    same = sum(
                        1
                        for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(found, tokens, strict=False))
                    )
                    return Outcome("different", name, f"prompt {n} of length {length}, from token {same} on")
        return Outcome("equal", name, f"loaded in {took_s:.1f} s")
    except Exception as failure:
        return Outcome("different", name, one_line(failure))
    finally:
        engine.close()


@contextlib.contextmanager
def converted_here() -> Iterator[Any]:
    """A converter within this process: it ends with its type anyway."""
    yield SimpleNamespace(ask=lambda request, timeout_s: convert_worker._answer(request, lambda step: None))
