"""A converted model on disk, and how it is compiled. Knows nothing of the conversion, which only its child imports."""

from pathlib import Path
from typing import Any, NamedTuple

import openvino as ov

from deployments.engines.text.decoders.model import ModelFacts
from deployments.engines.text.openvino.paging import page

MODEL, ABOUT = "model.xml", "about.json"
"""The converted model (its weights lie beside it), and `About` as JSON."""


class About(NamedTuple):
    """What the parent has to know of a converted model. `precision`: in which it computes."""

    precision: str
    windows: list[int]
    weight_bytes: int
    context: int
    vocabulary: int
    stop_ids: list[int]

    @property
    def facts(self) -> ModelFacts:
        return ModelFacts(self.context, self.vocabulary, frozenset(self.stop_ids))


def compile_model(place: Path, about: About, threads: int) -> Any:
    """The model that `make` wrote, with paged attention."""
    return with_pages(ov.Core().read_model(place / MODEL), about.windows, about.precision, threads)


def with_pages(model: ov.Model, kinds: list[int], precision: str, threads: int) -> Any:
    """`kinds`: the windows of the layers."""
    page(model, kinds)
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": precision,
        "KV_CACHE_PRECISION": precision,
        "ENABLE_CPU_PINNING": False,
    }
    return ov.Core().compile_model(model, "CPU", options)
