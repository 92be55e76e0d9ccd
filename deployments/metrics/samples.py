"""The metrics that families report of their models: data, for any process.

Counters and histograms count from the start of their source, so a report may be lost, or arrive twice by two ingresses.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class ModelMetric:
    """One metric of one model. `values`: one number; for a histogram the count of each bucket, the count above the
    last of `bounds`, and the sum."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    values: tuple[float, ...]
    bounds: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelReport:
    """All metrics of one model in one replica. A reload of the model is another `source`."""

    source: str
    model: str
    """Empty for what belongs to no model."""
    metrics: tuple[ModelMetric, ...]
    more: tuple[tuple[str, str], ...] = ()
    """Labels beside the model's, by name."""

    @property
    def labels(self) -> tuple[tuple[str, str], ...]:
        return (("model", self.model), *self.more) if self.model else self.more
