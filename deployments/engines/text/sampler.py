"""Choosing the next token of each row. Knows logits and seeds, not models, text or requests."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one request chooses its tokens. The default is greedy decoding.

    The warpers apply in the order of `transformers`: repetition penalty, temperature, top_k, top_p, min_p.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    logprobs: int | None = None
    """Tell the log-probability of each token, by the model's own logits, and of so many of the best beside it."""
    json_schema: str | None = None
    """The text shall be JSON that this schema allows."""

    @property
    def takes_the_best(self) -> bool:
        """Whether the largest of the model's own logits is the answer."""
        return not self.draws and self.repetition_penalty == 1 and self.json_schema is None

    @property
    def draws(self) -> bool:
        return self.temperature > 0

    @property
    def warps(self) -> bool:
        """Whether some tokens are never drawn."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0


@dataclass(frozen=True, slots=True)
class Choice:
    """What one row needs for its next token. `seen` is the prompt and what was generated, `seed` is never None.

    `allowed`, bool [vocabulary]: the only tokens there are.
    """

    sampling: Sampling
    seed: int
    seen: Sequence[int]
    allowed: Tensor | None = None


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on nothing but its arguments (splitmix64)."""
    return _mix(_mix(seed) + position * _GOLDEN) / 2**64


def _mix(z: int) -> int:
    z = (z + _GOLDEN) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return (z ^ (z >> 31)) & ~0x7FF  # 53 bits: exact in a double, never rounded up to 1


def sample(logits: Tensor, choices: Sequence[Choice]) -> list[int]:
    """The next token of each row. Logits float [rows, vocabulary], finite."""
    logits = logits.float()
    if any(choice.sampling.repetition_penalty != 1 for choice in choices):
        logits = _penalised(logits, choices)
    if any(choice.allowed is not None for choice in choices):
        logits = _restricted(logits, choices)
    best = logits.argmax(-1).tolist()
    # Two kinds, so that the way a row is drawn depends on nothing but the row itself.
    for draw, warped in ((_draw, False), (_draw_warped, True)):
        rows = [row for row, choice in enumerate(choices) if choice.sampling.draws and choice.sampling.warps == warped]
        if rows:
            chosen = [choices[row] for row in rows]
            temperature = _column([max(choice.sampling.temperature, 1e-5) for choice in chosen], logits)
            for row, token in zip(rows, draw(logits[rows].double() / temperature, chosen), strict=True):
                best[row] = token
    return best


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Log-probability of a token, and of the best ones: (token, log-probability), most probable first."""

    chosen: float
    top: tuple[tuple[int, float], ...]


def likelihoods(logits: Tensor, tokens: Sequence[int], tops: Sequence[int]) -> list[Likelihood]:
    """For each row its token's likelihood and that of the `tops` best. Logits float [rows, vocabulary], finite."""
    logs = logits.log_softmax(-1)
    chosen = logs.gather(-1, torch.tensor(tokens, device=logits.device)[:, None]).squeeze(-1).tolist()
    values, indices = logs.topk(min(max(tops), logits.shape[-1]), dim=-1)
    best = [list(zip(*row, strict=True)) for row in zip(indices.tolist(), values.tolist(), strict=True)]
    return [Likelihood(value, tuple(row[:top])) for value, row, top in zip(chosen, best, tops, strict=True)]


def _penalised(logits: Tensor, choices: Sequence[Choice]) -> Tensor:
    logits = logits.clone()
    for row, choice in enumerate(choices):
        penalty = choice.sampling.repetition_penalty
        if penalty != 1:
            seen = torch.tensor(sorted(set(choice.seen)), device=logits.device)
            scores = logits[row, seen]
            logits[row, seen] = torch.where(scores < 0, scores * penalty, scores / penalty)
    return logits


def _restricted(logits: Tensor, choices: Sequence[Choice]) -> Tensor:
    logits = logits.clone()
    for row, choice in enumerate(choices):
        if choice.allowed is not None:
            logits[row].masked_fill_(~choice.allowed.to(logits.device), -math.inf)
    return logits


def _draw_warped(logits: Tensor, choices: Sequence[Choice]) -> list[int]:
    """One token a row from what top_k, top_p and min_p leave. Logits double [rows, vocabulary]."""
    options = [choice.sampling for choice in choices]
    logits, order = logits.sort(stable=True, dim=-1, descending=True)
    rank = torch.arange(logits.shape[-1], device=logits.device)
    logits = logits.masked_fill(rank >= _column([o.top_k or math.inf for o in options], logits), -math.inf)
    before = logits.softmax(-1).cumsum(-1).roll(1, -1)
    before[:, 0] = 0  # The most probable token always stays.
    nucleus = _column([o.top_p if o.top_p < 1 else math.inf for o in options], logits)
    logits = logits.masked_fill(before >= nucleus, -math.inf)
    floor = logits[:, :1] + _column([math.log(o.min_p) if o.min_p > 0 else -math.inf for o in options], logits)
    places = torch.tensor(_draw(logits.masked_fill(logits < floor, -math.inf), choices), device=logits.device)
    tokens: list[int] = order.gather(-1, places[:, None]).squeeze(-1).tolist()
    return tokens


def _draw(logits: Tensor, choices: Sequence[Choice]) -> list[int]:
    """One column a row by inverting the cumulative distribution at the row's own random number."""
    mass = logits.softmax(-1).cumsum(-1)
    point = _column([uniform(choice.seed, len(choice.seen)) for choice in choices], logits) * mass[:, -1:]
    columns: list[int] = torch.searchsorted(mass, point, right=True).squeeze(-1).tolist()
    return [min(column, logits.shape[-1] - 1) for column in columns]


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device=like.device).unsqueeze(-1)
