"""The next token of each row from its logits. Knows logits, sampling options and seeds, not models or requests."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deployments.contract.types import SamplingOptions
from deployments.engines.text.folder.generation import StepProcessors

_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15


@dataclass(frozen=True, slots=True)
class RowSampling:
    """What the sampler needs for one row. `seen`: the tokens of the prompt, `prompt_tokens` of them, and of the text.

    `allowed`, bool [vocabulary]: the only tokens that may be chosen; None for all. `barred`: tokens that may not.
    """

    options: SamplingOptions
    seed: int
    seen: Sequence[int]
    allowed: Tensor | None = None
    prompt_tokens: int = 0
    barred: Collection[int] = ()
    folder: StepProcessors | None = None
    """What the model's folder does to the logits."""

    @property
    def adjusts_logits(self) -> bool:
        return self.options.adjusts_logits or self.folder is not None


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Log-probability of the chosen token, and of the best ones: (token, log-probability), most probable first."""

    chosen: float
    top: tuple[tuple[int, float], ...]


def sample(logits: Tensor, rows: Sequence[RowSampling]) -> list[int]:
    """The next token of each row. Logits float [rows, vocabulary], finite."""
    logits = logits.float()
    if any(row.allowed is not None or row.adjusts_logits for row in rows):
        logits = _constrained(logits, rows)
    tokens: list[int] = logits.argmax(-1).tolist()
    drawn = [n for n, row in enumerate(rows) if row.options.temperature]
    # Three groups, so that the arithmetic of a row depends on nothing but the row itself.
    for draw in (_draw, _draw_truncated, _draw_warped):
        numbers = [n for n in drawn if _drawn_by(rows[n]) is draw]
        if numbers:
            group = [rows[n] for n in numbers]
            temperature = _column([max(row.options.temperature or 0, 1e-5) for row in group], logits)
            for n, token in zip(numbers, draw(logits[numbers].double() / temperature, group), strict=True):
                tokens[n] = token
    return tokens


def logprobs(logits: Tensor, tokens: Sequence[int], tops: Sequence[int]) -> list[Logprobs]:
    """For each row the log-probability of its token and of the `tops` best. Logits float [rows, vocabulary], finite."""
    logs = logits.log_softmax(-1)
    chosen = logs.gather(-1, torch.tensor(tokens, device=logits.device)[:, None]).squeeze(-1).tolist()
    values, indices = logs.topk(min(max(tops), logits.shape[-1]), dim=-1)
    best = [list(zip(*row, strict=True)) for row in zip(indices.tolist(), values.tolist(), strict=True)]
    return [Logprobs(value, tuple(row[:top])) for value, row, top in zip(chosen, best, tops, strict=True)]


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on nothing but its arguments (splitmix64)."""
    return _mix(_mix(seed) + position * _GOLDEN) / 2**64


def _mix(z: int) -> int:
    z = (z + _GOLDEN) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return (z ^ (z >> 31)) & ~0x7FF  # 53 bits: exact in a double, never rounded up to 1


def _drawn_by(row: RowSampling) -> Callable[[Tensor, Sequence[RowSampling]], list[int]]:
    """By whether some tokens are never drawn, and whether the folder says which."""
    options = row.options
    if row.folder and row.folder.warpers:
        return _draw_warped
    return _draw_truncated if options.top_k or options.min_p or (options.top_p or 1.0) < 1 else _draw


def _constrained(logits: Tensor, rows: Sequence[RowSampling]) -> Tensor:
    """With the penalties and biases of each row, and only its allowed tokens."""
    logits = logits.clone()
    for n, row in enumerate(rows):
        if row.adjusts_logits:
            _adjust(logits[n], row)
        if row.allowed is not None:
            logits[n].masked_fill_(~row.allowed.to(logits.device), -math.inf)
    return logits


def _adjust(logits: Tensor, row: RowSampling) -> None:
    """Changes the logits of one row, float [vocabulary], in place."""
    options, folder = row.options, row.folder
    if folder:
        logits.copy_(folder.first(_tokens(row, logits), logits[None])[0])
    if (penalty := options.repetition_penalty or 1.0) != 1:
        seen = torch.tensor(sorted(set(row.seen)), device=logits.device)
        scores = logits[seen]
        logits[seen] = torch.where(scores < 0, scores * penalty, scores / penalty)
    if folder:
        logits.copy_(folder.following(_tokens(row, logits), logits[None])[0])
    text = row.seen[row.prompt_tokens :]
    if text and (options.presence_penalty or options.frequency_penalty):
        said, times = torch.tensor(text, device=logits.device).unique(return_counts=True)
        logits[said] -= (options.presence_penalty or 0.0) + (options.frequency_penalty or 0.0) * times
    if options.logit_bias:
        tokens = torch.tensor(list(options.logit_bias), device=logits.device)
        logits[tokens] += torch.tensor(list(options.logit_bias.values()), device=logits.device)
    if row.barred:
        logits[[token for token in row.barred if token < len(logits)]] = -math.inf


def _draw_truncated(logits: Tensor, rows: Sequence[RowSampling]) -> list[int]:
    """One token a row from those that top_k, top_p and min_p keep. Logits double [rows, vocabulary]."""
    options = [row.options for row in rows]
    logits, order = logits.sort(stable=True, dim=-1, descending=True)
    rank = torch.arange(logits.shape[-1], device=logits.device)
    logits = logits.masked_fill(rank >= _column([o.top_k or math.inf for o in options], logits), -math.inf)
    before = logits.softmax(-1).cumsum(-1).roll(1, -1)
    before[:, 0] = 0  # The most probable token always stays.
    nucleus = _column([o.top_p if o.top_p and o.top_p < 1 else math.inf for o in options], logits)
    logits = logits.masked_fill(before >= nucleus, -math.inf)
    floor = logits[:, :1] + _column([math.log(o.min_p) if o.min_p else -math.inf for o in options], logits)
    ranks = torch.tensor(_draw(logits.masked_fill(logits < floor, -math.inf), rows), device=logits.device)
    tokens: list[int] = order.gather(-1, ranks[:, None]).squeeze(-1).tolist()
    return tokens


def _draw_warped(logits: Tensor, rows: Sequence[RowSampling]) -> list[int]:
    """One token a row from those that the folder's warpers keep. Logits double [rows, vocabulary]."""
    kept = [row.folder.warpers(_tokens(row, logits), logits[n : n + 1]) for n, row in enumerate(rows) if row.folder]
    return _draw(torch.cat(kept), rows)


def _tokens(row: RowSampling, like: Tensor) -> Any:
    """Of the prompt and of the text so far, [1, n]."""
    return torch.tensor(row.seen, dtype=torch.long, device=like.device)[None]


def _draw(logits: Tensor, rows: Sequence[RowSampling]) -> list[int]:
    """One column a row, by inverting the cumulative distribution at the row's own random number."""
    mass = logits.softmax(-1).cumsum(-1)
    point = _column([uniform(row.seed, len(row.seen)) for row in rows], logits) * mass[:, -1:]
    columns: list[int] = torch.searchsorted(mass, point, right=True).squeeze(-1).tolist()
    return [min(column, logits.shape[-1] - 1) for column in columns]


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device=like.device).unsqueeze(-1)
