"""What a replica with models is made from, and what of it may change while it runs."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deployments.contract.settings import FamilySettings, location
from deployments.replica.family import Family
from deployments.repository.families import ModelFormat
from deployments.repository.local import Repository

logger = logging.getLogger("ray.serve")  # Whose lines Ray keeps.


@dataclass(frozen=True, slots=True)
class ReplicaOptions:
    """What a replica is made from."""

    family: Family
    models: Path | str
    """The model repository: a folder, or a URL."""
    formats: Mapping[str, ModelFormat]
    """Of all families, by family."""
    settings: FamilySettings
    """An instance of the family's `options`."""
    cache: Path | None = None
    """As configured; None: where the node's user can write."""
    sources: tuple[str, ...] = ()
    link_targets: tuple[Path, ...] = ()

    def repository(self) -> Repository:
        return Repository(self.models, self.formats, sources=self.sources, link_targets=self.link_targets)

    @property
    def user_config(self) -> dict[str, Any]:
        """What reaches a replica while it runs: JSON."""
        settings = self.settings.model_dump(mode="json", exclude={"autoscaling"})
        return {"settings": settings, "models": str(self.models), "sources": list(self.sources)}

    def changed(self, user_config: Mapping[str, Any]) -> "ReplicaOptions":
        """With another `user_config`. One that cannot be read, of the `deployments` in a file for `serve deploy`,
        changes nothing and is logged."""
        try:
            settings = self.family.options.model_validate(user_config["settings"])
            models, sources = location(user_config["models"]), tuple(user_config["sources"])
        except (KeyError, TypeError, ValueError) as wrong:
            logger.error("a change is left out: %s", wrong)
            return self
        return replace(self, settings=settings, models=models, sources=sources)
