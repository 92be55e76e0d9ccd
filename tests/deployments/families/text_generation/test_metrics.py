"""Each text model has its gauges, counters and histograms; an unloaded one counts nothing."""

import asyncio
import gc

from deployments.families.text_generation import metrics
from deployments.families.text_generation.metrics import TextMetrics
from deployments.families.text_generation.replica import TextGenerationReplica
from deployments.repository.model import find
from tests.deployments.families.text_generation.conftest import ask


def values(text_metrics: TextMetrics, name: str) -> list[tuple[float, ...]]:
    return [metric.values for report in text_metrics.read() for metric in report.metrics if metric.name == name]


async def test_tokens_and_times_of_a_request_are_counted(replica: TextGenerationReplica) -> None:
    answer = await ask(replica, prompt="a", max_tokens=3)
    assert answer.usage
    assert values(replica.metrics, metrics.PROMPT) == [(answer.usage.prompt_tokens,)]
    assert values(replica.metrics, metrics.GENERATED) == [(3,)]
    [histogram] = values(replica.metrics, metrics.INTER_TOKEN)
    assert sum(histogram[:-1]) == 2


async def test_an_unloaded_model_reports_nothing(replica: TextGenerationReplica) -> None:
    async with asyncio.timeout(120):  # Once the model is converted the prefix cache has the prompt.
        while values(replica.metrics, metrics.CACHE) in ([], [(0,)]):
            await ask(replica, prompt="a" * 80, max_tokens=1)
    model = find(replica.options.repository().models(), "m", "text_generation")
    assert await replica.unload_model(model)
    gc.collect()
    assert replica.metrics.read() == []


async def test_a_model_is_counted_from_its_load_on(replica: TextGenerationReplica) -> None:
    model = find(replica.options.repository().models(), "m", "text_generation")
    assert await replica.load_model(model, 60) is None
    assert values(replica.metrics, metrics.GENERATED) == [(0,)]
