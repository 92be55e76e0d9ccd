"""Each text model has its gauges, counters and histograms; an unloaded one counts nothing."""

import asyncio
import gc
from pathlib import Path

import pytest

from deployments.contract.types import SamplingOptions
from deployments.engines.text.loop import DecoderLoop
from deployments.engines.text.request import Finished, Timing
from deployments.families.text_generation import metrics
from deployments.families.text_generation.metrics import TextMetrics
from deployments.families.text_generation.replica import TextGenerationReplica
from deployments.repository.model import find
from tests.deployments.families.text_generation.conftest import RayMetric, ask
from tests.support import text_models
from tests.support.text_models import CHATML, PATIENCE_S, save_chat_model


def values(text_metrics: TextMetrics, name: str) -> list[tuple[float, ...]]:
    return [metric.values for report in text_metrics.read() for metric in report.metrics if metric.name == name]


async def test_tokens_and_times_of_a_request_are_counted(replica: TextGenerationReplica) -> None:
    answer = await ask(replica, prompt="a", max_tokens=3)
    assert answer.usage
    assert values(replica.metrics, metrics.PROMPT) == [(answer.usage.prompt_tokens,)]
    assert values(replica.metrics, metrics.GENERATED) == [(3,)]
    [histogram] = values(replica.metrics, metrics.INTER_TOKEN)
    assert sum(histogram[:-1]) == 2


@pytest.mark.compiles
async def test_an_unloaded_model_reports_nothing(replica: TextGenerationReplica) -> None:
    async with asyncio.timeout(120):  # Once the model is converted the prefix cache has the prompt.
        while values(replica.metrics, metrics.CACHE) in ([], [(0,)]):
            await ask(replica, prompt="a" * 80, max_tokens=1)
    model = find(replica.options.repository().models(), "m", "text_generation")
    assert await replica.unload_model(model)
    async with asyncio.timeout(60):  # Its thread ends in its own time.
        while replica.metrics.read():
            gc.collect()
            await asyncio.sleep(0.01)


async def test_a_model_is_counted_from_its_load_on(replica: TextGenerationReplica) -> None:
    model = find(replica.options.repository().models(), "m", "text_generation")
    assert await replica.load_model(model, 60) is None
    assert values(replica.metrics, metrics.GENERATED) == [(0,)]


@pytest.mark.compiles
async def test_what_a_model_with_prompt_lookup_proposes_is_counted(
    replica: TextGenerationReplica, models: Path
) -> None:
    (save_chat_model(models / "lookup", CHATML) / "model.yaml").write_text("prompt_lookup: true")
    model = find(replica.options.repository().models(), "lookup", "text_generation")
    engine = replica.load(model)
    assert isinstance(engine.loop, DecoderLoop)
    assert engine.loop.settled.wait(PATIENCE_S)
    assert engine.runtime_info == (f"{text_models.OPENVINO}, prompt lookup",)
    text_models.ask(engine, "a b c a b c a b c", 200, SamplingOptions(ignore_eos=True))
    (drafted,), (accepted,) = (values(replica.metrics, name)[-1] for name in (metrics.DRAFTED, metrics.ACCEPTED))
    engine.close()
    assert 0 <= accepted <= drafted
    assert drafted > 0


def test_ray_gets_each_time_between_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    observed: dict[str, list[float]] = {}

    class Kept(RayMetric):
        def __init__(self, name: str, *args: object, **options: object) -> None:
            self.values = observed.setdefault(name, [])

        def observe(self, value: float, tags: dict[str, str]) -> None:
            self.values.append(value)

    monkeypatch.setattr(metrics, "Histogram", Kept)
    text_metrics = TextMetrics()
    text_metrics.finished("m", Finished("length", 1, 3, Timing(0.5, 1.0, (1.0, 2.0))))
    text_metrics.finished("m", Finished("length", 1, 1, Timing(0.5, 1.0)))
    assert observed == {metrics.QUEUE: [0.5, 0.5], metrics.FIRST_TOKEN: [1.0, 1.0], metrics.INTER_TOKEN: [1.0, 2.0]}
