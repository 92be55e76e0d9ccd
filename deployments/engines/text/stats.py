"""What an engine has done so far: counters and histograms. Knows no tensors."""

import time
from bisect import bisect_left

from deployments.engines.text.request import GenerationRequest

# Seconds; the bounds that vLLM uses, thinned out.
QUEUE_BOUNDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0)
FIRST_TOKEN_BOUNDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
INTER_TOKEN_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
_RECENT = 0.1  # The weight of the newest duration in the moving mean.


class Histogram:
    """`counts[i]` values up to `bounds[i]`, the last one those above all bounds; `total`, their sum."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float | None) -> None:
        if value is not None:
            self.counts[bisect_left(self.bounds, value)] += 1
            self.total += value


class StatsRecorder:
    """Of one engine, from its start. Written by its thread, read by any."""

    def __init__(self) -> None:
        self.prompt_tokens = 0
        self.generated_tokens = 0
        self.draft_tokens = 0
        self.accepted_tokens = 0
        """Of the draft tokens."""
        self.queue_s = Histogram(QUEUE_BOUNDS)
        self.first_token_s = Histogram(FIRST_TOKEN_BOUNDS)
        self.inter_token_s = Histogram(INTER_TOKEN_BOUNDS)
        self._mean_running_s = 0.0  # From admission to the last token, lately.

    def finished(self, request: GenerationRequest) -> None:
        """Call it when the last token has come."""
        timing = request.timing()
        running_s = time.monotonic() - request.submitted_at - timing.queue_s
        self.queue_s.observe(timing.queue_s)
        self.first_token_s.observe(timing.first_token_s)
        for gap_s in timing.gaps_s:
            self.inter_token_s.observe(gap_s)
        weight = _RECENT if self._mean_running_s else 1.0
        self._mean_running_s += weight * (running_s - self._mean_running_s)

    def expected_wait_ms(self, waiting: int, rows: int) -> int:
        """Until one more request than `waiting` gets one of `rows` rows, at the recent speed; a second a request at
        first."""
        return max(50, round(1_000 * (self._mean_running_s or 1.0) * (waiting + 1) / rows))
