"""Which models a replica loads before it takes requests."""

import logging
from collections.abc import Iterable, Iterator, Mapping

from deployments.contract.errors import ServingError, WrongFamily
from deployments.repository.model import Model, find
from deployments.residency.engine import EngineT
from deployments.residency.residency import Residency

logger = logging.getLogger("ray.serve")  # Whose lines Ray keeps.


def to_preload(models: Mapping[str, Model], family: str, names: Iterable[str]) -> Iterator[Model]:
    """Those that the settings name, then those whose model.yaml has `warm_up`. What cannot be served is logged."""
    warm = [name for name, model in models.items() if model.manifest.warm_up and name == model.model_id]
    for name in dict.fromkeys((*names, *warm)):
        try:
            yield find(models, name, family)
        except WrongFamily:
            continue
        except ServingError as failure:
            logger.error("preload: %s", failure.message)


def fitting(models: Iterable[Model], residency: Residency[EngineT]) -> Iterator[Model]:
    """Those that can be loaded into memory that is free."""
    for model in {model.key: model for model in models}.values():
        plan = residency.plan(model, "")
        if plan.fits and not plan.resident and not plan.evicts:
            yield model
