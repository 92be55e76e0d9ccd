"""`python -m benchmarks.compat [TYPE …] [--write FILE]`: every type of text model, held to transformers' own answers.

Of each type a small random model is made, saved as a folder and loaded. Five prompts at once, of three lengths, 40
greedy tokens each, have to be what `generate` gives. Where its two best logits lie within 1e-4 the tokens before count.
Each type has a process of its own, which ends with it.
"""

import argparse
import contextlib
import itertools
import json
import logging
import os
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from benchmarks.text.small_models import VOCABULARY, small_config, tokenizer
from deployments.contract.errors import ServingError
from deployments.contract.types import Chunk, SamplingOptions
from deployments.engines.text.engine import TextGenerationEngine
from deployments.engines.text.openvino import artifacts, convert_worker
from deployments.engines.text.request import Event

TYPE_S = 240
TOKENS = 40
LENGTHS = (3, 20, 90)
PROMPTS = 5


@dataclass(frozen=True, slots=True)
class Outcome:
    """`result`: equal, refused, different, "not made" (no small model), "not answered" (transformers itself fails)."""

    result: str
    engine: str = ""
    detail: str = ""


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
        return Outcome("not answered", detail=one_line(failure))
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


def one_line(failure: Exception) -> str:
    return f"{type(failure).__name__}: {str(failure).strip().partition(chr(10))[0]}"[:160]


@contextlib.contextmanager
def converted_here() -> Iterator[Any]:
    """A converter within this process: it ends with its type anyway."""
    yield SimpleNamespace(ask=lambda request, timeout_s: convert_worker._answer(request, lambda step: None))


def in_a_process(model_type: str) -> Outcome:
    """Raises nothing: a process that dies or hangs is an outcome."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(TYPE_S)
        os.close(read)
        with tempfile.TemporaryDirectory() as folder:
            outcome = examine(model_type, Path(folder))
        os.write(write, json.dumps(asdict(outcome)).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    if answer:
        return Outcome(**json.loads(answer))
    return Outcome("different", detail=f"the process ended with status {status}")


def table(outcomes: dict[str, Outcome]) -> str:
    counts = Counter(outcome.result for outcome in outcomes.values())
    answered = sum(counts.values()) - counts["not made"] - counts["not answered"]
    lines = [
        f"transformers {transformers.__version__}: {len(outcomes)} types; of {answered} that transformers answers "
        f"{counts['equal']} equal ({counts['equal'] / max(1, answered):.0%}), {counts['refused']} refused, "
        f"{counts['different']} different; {counts['not made']} without a small model, "
        f"{counts['not answered']} that transformers itself does not answer.",
        "",
        "| type | result | engine | |",
        "|---|---|---|---|",
        *(
            f"| {name} | {one.result} | {one.engine} | {one.detail.replace('|', ' ')} |"
            for name, one in sorted(outcomes.items())
        ),
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("types", nargs="*", default=sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
    parser.add_argument("--write", type=Path)
    options = parser.parse_args(arguments)
    disable_progress_bar()
    set_verbosity_error()
    warnings.simplefilter("ignore")
    logging.disable()
    torch.set_num_threads(1)  # Before any forward: a process with threads cannot be forked.
    artifacts.converter = converted_here
    outcomes = {}
    for name in options.types:
        outcomes[name] = in_a_process(name)
        print(f"{name}: {' · '.join(filter(None, asdict(outcomes[name]).values()))}", file=sys.stderr, flush=True)
    written = table(outcomes)
    print(written)
    if options.write:
        options.write.write_text(written)


if __name__ == "__main__":
    main()
