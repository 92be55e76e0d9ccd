"""One version of one model, and how a model is found by its name. Reads no files."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deployments.contract.errors import ModelLoadFailed, ModelNotFound, WrongFamily, quoted
from deployments.contract.settings import nearest
from deployments.repository.manifest import Manifest

LEVELS = 3
"""How deep below the repository's root a model's folder may lie."""


@dataclass(frozen=True, slots=True)
class Model:
    """One version of one model as it lies on disk."""

    model_id: str
    version: int | None
    folder: Path
    digest: str
    """Changes when any file of the folder, or of the source that it names, does."""
    family: str | None = None
    manifest: Manifest = field(default_factory=Manifest)
    weight_bytes: int = 0
    problem: str | None = None
    """Why the model cannot be served, in one line, if so."""
    pinned: bool = False
    """Whether it stays in memory once it is there."""

    @property
    def name(self) -> str:
        return self.model_id if self.version is None else f"{self.model_id}@{self.version}"

    @property
    def key(self) -> str:
        """Name and content: changed files make another model in memory, and the old one is evicted in time."""
        return f"{self.name}#{self.digest}"

    @property
    def declared_bytes(self) -> int:
        declared = self.manifest.memory_mb
        return self.weight_bytes if declared is None else int(declared * 2**20)


def find(models: Mapping[str, Model], model_id: str, family: str) -> Model:
    """The model of that name. Raises ModelNotFound, WrongFamily, or ModelLoadFailed where it cannot be served."""
    model = models.get(model_id)
    if model is None:
        raise ModelNotFound(f"no model {quoted(model_id)}{nearest(model_id[:256], models)}")
    if model.problem is not None:
        raise ModelLoadFailed(f"{model.name}: {model.problem}")
    if model.family != family:
        raise WrongFamily(f"{model.name} serves {model.family}, not {family}")
    return model


def by_name(versions: Iterable[Model]) -> dict[str, Model]:
    """Every model by the names it answers to: the highest version without a problem serves."""
    table: dict[str, Model] = {}
    for model in versions:
        table[model.name] = model
        serving = table.get(model.model_id)
        if serving is None or rank(model) >= rank(serving):
            table[model.model_id] = model
    return table


def rank(model: Model) -> tuple[bool, int]:
    return model.problem is None, model.version or 0


def place_of(parts: tuple[str, ...]) -> tuple[str, int | None]:
    """(model id, version) of a folder by the names that lead to it."""
    *parents, last = parts
    if parents and last.isascii() and last.isdigit() and len(last) < 10:
        return "/".join(parents), int(last)
    return "/".join(parts), None


def is_name(part: str) -> bool:
    """Whether a folder of that name may lead to a model: hidden ones do not, and what follows an @ is a version."""
    return not part.startswith(".") and "@" not in part
