"""What is sent, and when: models with weights, a file of requests, or a trace of a text service."""

import csv
import itertools
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from deployments.contract import wire
from deployments.contract.errors import ServingError
from deployments.contract.status import ModelStatus
from deployments.contract.types import InferRequest, TextGeneration
from deployments.replica.family import Family
from serve_app.bench.connections import Sent

WORD = "word "
"""About a token."""
CONTEXT = 1024
"""Of a model without a number of its own."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a trace: when, in seconds from its first, and how many tokens in and out."""

    at: float
    context_tokens: int
    generated_tokens: int


def sent(request: InferRequest) -> Sent:
    return Sent(wire.encode(request, wire.JSON), request.model_id)


def of_models(
    weights: Mapping[str, int], statuses: Sequence[ModelStatus], families: Iterable[Family], seed: int
) -> Iterator[Sent]:
    """Each model's family's sample, in random order by weight; without weights every model that has a sample. Texts are
    streamed. Raises ValueError."""
    samples = {family.name: family for family in families if family.sample}
    by_id = {status.model_id: status for status in statuses}
    chosen = dict(weights) or {one.model_id: 1 for one in statuses if one.family in samples and one.state != "failed"}
    requests = []
    for model_id in chosen:
        status = by_id.get(model_id.partition("@")[0])
        if status is None or status.family not in samples:
            reason = "there is no such model" if status is None else f"{status.family} has no sample; use --requests"
            raise ValueError(f"{model_id}: {reason}")
        family = samples[status.family]
        assert family.sample
        requests.append(sent(_streamed(family.request_for(model_id, family.sample.fields))))
    if not requests:
        raise ValueError("no model has a sample request: name a file with --requests")
    chance = random.Random(seed)
    return (chance.choices(requests, list(chosen.values()))[0] for _ in itertools.count())


def _streamed(request: InferRequest) -> InferRequest:
    return request.model_copy(update={"stream": True}) if "stream" in type(request).model_fields else request


def of_file(file: Path) -> Iterator[Sent]:
    """JSON lines, each an InferRequest, over and over. Raises ValueError."""
    lines = []
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        if line.strip():
            try:
                lines.append(Sent(line, wire.decode(line, wire.JSON, InferRequest).model_id))
            except ServingError as wrong:
                raise ValueError(f"{file.name}, line {number}: {wrong.message}") from None
    if not lines:
        raise ValueError(f"{file.name} holds no request")
    return itertools.cycle(lines)


def read_trace(file: Path) -> list[Row]:
    """A CSV file of TIMESTAMP, ContextTokens and GeneratedTokens, as Azure publishes its traces. Raises ValueError."""
    rows = []
    with file.open(newline="", encoding="utf-8") as lines:
        for number, row in enumerate(csv.DictReader(lines), 2):
            try:
                at = datetime.fromisoformat(row["TIMESTAMP"].strip()[:26]).timestamp()
                rows.append((at, int(row["ContextTokens"]), int(row["GeneratedTokens"])))
            except (KeyError, ValueError, TypeError, AttributeError):
                raise ValueError(f"{file.name}, line {number}: no TIMESTAMP, ContextTokens, GeneratedTokens") from None
    if not rows:
        raise ValueError(f"{file.name} holds no request")
    begin = min(at for at, _, _ in rows)
    return [Row(at - begin, *tokens) for at, *tokens in sorted(rows)]


def of_trace(
    rows: Iterable[Row], model_id: str, context: int | None, speed: float, seconds: float
) -> Iterator[tuple[float, Sent]]:
    """The trace's arrivals, `speed` times as fast, for so many seconds. Prompts are about as long as the trace's, as
    far as they and their texts fit into the model's context."""
    limit = context or CONTEXT
    for row in rows:
        if (at := row.at / speed) >= seconds:
            return
        length = max(1, min(row.generated_tokens, limit // 2))
        prompt = WORD * max(1, min(row.context_tokens, (limit - length) // 2))
        request = TextGeneration(model_id=model_id, prompt=prompt, max_tokens=length, ignore_eos=True, stream=True)
        yield at, sent(request)


def poisson(works: Iterator[Sent], rate: float, seconds: float, seed: int) -> Iterator[tuple[float, Sent]]:
    """Arrivals of callers that know nothing of each other, so many a second."""
    chance, at = random.Random(seed), 0.0
    while (at := at + chance.expovariate(rate)) < seconds:
        yield at, next(works)


def text_model(weights: Mapping[str, int], statuses: Sequence[ModelStatus]) -> ModelStatus:
    """The model that a trace is sent to: the named one, or the first for texts. Raises ValueError."""
    for status in statuses:
        if status.family == "text_generation" and (not weights or status.model_id in weights):
            return status
    raise ValueError("a trace is sent to a text model, and there is none" + (" of that name" if weights else ""))
