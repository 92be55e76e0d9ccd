"""The metrics of each text model: reports that the aggregator adds up, and Ray's metrics of this replica."""

import threading
import uuid
import weakref
from typing import TYPE_CHECKING

from ray.util.metrics import Histogram

from deployments.metrics.samples import ModelMetric, ModelReport

if TYPE_CHECKING:
    from deployments.engines.text.engine import TextGenerationEngine
    from deployments.engines.text.request import Finished

RUNNING = "text_requests_running"
WAITING = "text_requests_waiting"
CACHE = "text_cache_bytes"
CACHE_USED = "text_cache_used_bytes"
PROMPT = "text_prompt_tokens_total"
SHARED = "text_prompt_tokens_shared_total"
GENERATED = "text_generated_tokens_total"
DRAFTED = "text_draft_tokens_total"
ACCEPTED = "text_draft_tokens_accepted_total"
QUEUE = "text_queue_seconds"
FIRST_TOKEN = "text_time_to_first_token_seconds"
INTER_TOKEN = "text_inter_token_seconds"

GAUGES = {
    RUNNING: "Requests that get tokens now.",
    WAITING: "Requests that wait for a row of the batch.",
    CACHE: "Bytes of the key-value cache.",
    CACHE_USED: "Bytes of the key-value cache that hold tokens.",
}
COUNTERS = {
    PROMPT: "Tokens of prompts.",
    SHARED: "Tokens of prompts that the prefix cache had.",
    GENERATED: "Tokens generated.",
    DRAFTED: "Tokens proposed by speculative decoding.",
    ACCEPTED: "Proposed tokens that were right.",
}
HISTOGRAMS = {
    QUEUE: "Time from a request's arrival at its replica to its row of the batch.",
    FIRST_TOKEN: "Time from a request's arrival at its replica to its first token.",
    INTER_TOKEN: "Time from each token of a request to its next one.",
}
_BOUNDS_S = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0]


class TextMetrics:
    """Of one replica."""

    def __init__(self) -> None:
        self._sources: weakref.WeakKeyDictionary[TextGenerationEngine, tuple[str, str]] = weakref.WeakKeyDictionary()
        self._watching = threading.Lock()  # Models are loaded in threads.
        self._histograms = {
            name: Histogram(name, text, boundaries=_BOUNDS_S, tag_keys=("model",)) for name, text in HISTOGRAMS.items()
        }

    def watch(self, engine: "TextGenerationEngine", model: str) -> None:
        with self._watching:
            self._sources[engine] = uuid.uuid4().hex, model

    def finished(self, model: str, end: "Finished") -> None:
        """Adds one request's times to Ray's metrics; the aggregator has the counters and gauges."""
        if (timing := end.timing) is None:
            return
        firsts = () if timing.first_token_s is None else (timing.first_token_s,)
        for name, times in {QUEUE: (timing.queue_s,), FIRST_TOKEN: firsts, INTER_TOKEN: timing.gaps_s}.items():
            for seconds in times:
                self._histograms[name].observe(seconds, {"model": model})

    def read(self) -> list[ModelReport]:
        """The counts of all engines so far."""
        with self._watching:
            sources = list(self._sources.items())
        return [_report(engine, *source) for engine, source in sources]


def _report(engine: "TextGenerationEngine", source: str, model: str) -> ModelReport:
    loop, stats = engine.loop, engine.stats
    cache_bytes = loop.nbytes
    gauges = {
        RUNNING: loop.running,
        WAITING: loop.waiting,
        CACHE: cache_bytes,
        CACHE_USED: round(cache_bytes * loop.use),
    }
    counters = {
        PROMPT: stats.prompt_tokens,
        SHARED: loop.shared_tokens,
        GENERATED: stats.generated_tokens,
        DRAFTED: stats.draft_tokens,
        ACCEPTED: stats.accepted_tokens,
    }
    histograms = {QUEUE: stats.queue_s, FIRST_TOKEN: stats.first_token_s, INTER_TOKEN: stats.inter_token_s}
    metrics = [ModelMetric(name, "gauge", GAUGES[name], (value,)) for name, value in gauges.items()]
    metrics += [ModelMetric(name, "counter", COUNTERS[name], (value,)) for name, value in counters.items()]
    for name, seen in histograms.items():
        metrics.append(ModelMetric(name, "histogram", HISTOGRAMS[name], (*seen.counts, seen.total), seen.bounds))
    return ModelReport(source, model, tuple(metrics))
