"""What an engine has done so far, counted. Knows numbers only."""

import time
from bisect import bisect_left
from dataclasses import dataclass

from deployments.engines.text.request import Generation

# Seconds; the bounds that vLLM uses, thinned out.
QUEUE_BOUNDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0)
FIRST_TOKEN_BOUNDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
INTER_TOKEN_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
_RECENT = 0.1  # The weight of a new duration in the running mean.


@dataclass(frozen=True, slots=True)
class Distribution:
    """A histogram: `counts[i]` values up to `bounds[i]`, the last one those above all bounds; their sum."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Tokens and distributions count from the engine's start. `cache_use`: the share of the cache that holds tokens.

    `shared_tokens`: prompt tokens that were not computed, since an earlier prompt began with the same.
    """

    running: int
    waiting: int
    prompt_tokens: int
    shared_tokens: int
    generated_tokens: int
    cache_bytes: int
    cache_use: float
    queue_s: Distribution
    first_token_s: Distribution
    inter_token_s: Distribution


class Histogram:
    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def observe(self, value: float | None) -> None:
        if value is not None:
            self._counts[bisect_left(self._bounds, value)] += 1
            self._total += value

    def read(self) -> Distribution:
        return Distribution(self._bounds, tuple(self._counts), self._total)


class Meter:
    """Counts what the engine's thread tells it; may be read from any thread."""

    def __init__(self) -> None:
        self.prompt_tokens = 0
        self.generated_tokens = 0
        self.queue = Histogram(QUEUE_BOUNDS)
        self.first_token = Histogram(FIRST_TOKEN_BOUNDS)
        self.inter_token = Histogram(INTER_TOKEN_BOUNDS)
        self._request_s = 0.0  # How long a request has had a row lately.

    def finished(self, generation: Generation) -> None:
        """Call it when its last token has come."""
        timing = generation.timing()
        request_s = time.monotonic() - generation.submitted_at - timing.queue_s
        self.queue.observe(timing.queue_s)
        self.first_token.observe(timing.first_token_s)
        self.inter_token.observe(timing.inter_token_s)
        weight = _RECENT if self._request_s else 1.0
        self._request_s += weight * (request_s - self._request_s)

    def wait_ms(self, waiting: int, rows: int) -> int:
        """How long `waiting` requests take to get one of `rows` rows, as fast as it went lately; a second at first."""
        return max(50, round(1_000 * (self._request_s or 1.0) * (waiting + 1) / rows))
