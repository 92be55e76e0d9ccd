"""One version of one model, and how a model is found by its name. Reads no files."""

import copyreg
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from operator import attrgetter
from pathlib import Path

from deployments.contract.errors import ModelLoadFailed, ModelNotFound, WrongFamily, quoted
from deployments.contract.generation import FolderDefaults
from deployments.contract.settings import nearest
from deployments.repository.manifest import Manifest

LEVELS = 3
"""How deep below the repository's root a model's folder may lie."""
VERSION_DIGITS = 9


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
    generation: FolderDefaults = field(default_factory=FolderDefaults)
    """Of the folder's generation_config.json."""
    context: int | None = None
    """How many tokens it takes, where its family counts them and config.json has the number."""
    adapter_of: str | None = None
    """The base that it names, if the folder holds an adapter."""
    base: "Model | None" = None
    """An adapter's."""
    draft: "Model | None" = field(default=None, repr=False)
    """The model that its model.yaml names as its draft."""
    problem: str | None = None
    """Why the model cannot be served, in one line, if so."""
    pinned: bool = False
    """Whether it is never evicted from memory."""
    root: Path | None = field(default=None, repr=False, compare=False)
    """The repository that it was found in, if that is a folder."""
    name: str = field(init=False, repr=False, compare=False)
    key: str = field(init=False, repr=False, compare=False)
    """Name and content: after a change of its files a model is another one in memory."""
    written: tuple[object, ...] = field(init=False, repr=False, compare=False)
    """What pickle takes it apart into. Every call to a replica carries its model: it is written once, and read once."""

    def __post_init__(self) -> None:
        # Fields and not properties: every request reads both some times.
        object.__setattr__(self, "name", versioned(self.model_id, self.version))
        object.__setattr__(self, "key", f"{self.name}#{self.digest}")
        given = [getattr(self, one.name) for one in fields(self) if one.init]
        object.__setattr__(self, "written", (_read, (pickle.dumps(given, pickle.HIGHEST_PROTOCOL),)))

    @property
    def own_digest(self) -> str:
        """Without what the digests of an adapter's base and of a source add."""
        return self.digest.partition("-")[0]

    @property
    def declared_bytes(self) -> int:
        declared = self.manifest.memory_mb
        own = self.weight_bytes if declared is None else int(declared * 2**20)
        return own + (self.draft.declared_bytes if self.draft else 0)


@lru_cache(1024)
def _read(pickled: bytes) -> Model:
    return Model(*pickle.loads(pickled))


copyreg.pickle(Model, attrgetter("written"))  # In C, unlike a method.


def versioned(model_id: str, version: int | None) -> str:
    return model_id if version is None else f"{model_id}@{version}"


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
    """Every version by its name, and by the model id the one that serves: of the highest rank."""
    table: dict[str, Model] = {}
    for model in versions:
        table[model.name] = model
        serving = table.get(model.model_id)
        if serving is None or rank(model) >= rank(serving):
            table[model.model_id] = model
    return table


def rank(model: Model) -> tuple[bool, int]:
    """Versions without a problem come before others, then the higher number."""
    return model.problem is None, model.version or 0


def id_and_version(parts: tuple[str, ...]) -> tuple[str, int | None]:
    """Of the folder that these names lead to, from the repository's root."""
    *parents, last = parts
    if parents and last.isascii() and last.isdigit() and len(last) <= VERSION_DIGITS:
        return "/".join(parents), int(last)
    return "/".join(parts), None


def may_name_a_model(part: str) -> bool:
    """Whether a folder of that name may lead to a model. Hidden folders do not, and an @ would name a version."""
    return not part.startswith(".") and "@" not in part
