"""Which family serves a model, by its model.yaml or its config.json. Knows no engine, no Ray."""

from collections.abc import Callable, Collection, Mapping

from pydantic import BaseModel, ConfigDict, ImportString, ValidationError

from deployments.contract.errors import quoted
from deployments.contract.settings import Strict, mistakes, nearest
from deployments.repository.diagnosis import check_quantisation, kind_without_family
from deployments.repository.manifest import Manifest, Unservable

Matches = Callable[[Mapping[str, object]], bool]
"""Whether a family serves the model with this config.json."""
Lacks = Callable[[Mapping[str, object], Collection[str]], str | None]
"""What a folder with this config.json and files of these names lacks, in one line, though the family matches."""


Context = Callable[[Mapping[str, object]], int | None]
"""How many tokens the model with this config.json takes, prompt and answer together; None where it has no number."""


class ModelFormat(BaseModel):
    """What the repository has to know of a family. `model_dump(mode="json")` gives import paths."""

    model_config = ConfigDict(frozen=True)

    matches: ImportString[Matches]
    context: ImportString[Context] | None = None
    golden: ImportString[type[Strict]] | None = None
    """An entry of model.yaml's `golden`."""
    lacks: ImportString[Lacks] | None = None
    marker: str | None = None
    """A file that only folders of the family hold, whatever their config.json is."""


def family_of(
    manifest: Manifest, config: Mapping[str, object], formats: Mapping[str, ModelFormat], names: Collection[str] = ()
) -> str:
    """The family that model.yaml names, else the one whose marker is among the folder's files, `names`, else the first
    that matches config.json.

    Raises Unservable where there is none, or where model.yaml is wrong for it.
    """
    marked = (name for name, form in formats.items() if form.marker in names)
    matching = (name for name, form in formats.items() if form.matches(config))
    family = manifest.family or next(marked, None) or next(matching, None)
    if family is None:
        named = f"no family serves architecture {quoted(', '.join(architectures(config)) or 'none')}"
        raise Unservable(kind_without_family(config, names) or named)
    if family not in formats:
        raise Unservable(f"model.yaml: no family {quoted(family)}{nearest(family, formats)}")
    golden = formats[family].golden
    for number, example in enumerate(manifest.golden):
        if golden is None:
            raise Unservable(f"model.yaml: {family} has no golden examples")
        try:
            golden.model_validate(example)
        except ValidationError as invalid:
            raise Unservable(f"model.yaml: {mistakes(invalid, 'golden', number)[0]}") from None
    return family


def context_of(family: str, config: Mapping[str, object], formats: Mapping[str, ModelFormat]) -> int | None:
    """How many tokens a model of this family takes, if the family counts them and config.json has the number."""
    context = formats[family].context
    return context(config) if context is not None else None


def check_content(
    family: str, config: Mapping[str, object], formats: Mapping[str, ModelFormat], names: Collection[str]
) -> None:
    """Raises Unservable where the folder is of the family's kind but cannot be read here."""
    check_quantisation(config)
    lacks = formats[family].lacks
    if lacks is not None and (lacking := lacks(config, names)) is not None:
        raise Unservable(lacking)


def architectures(config: Mapping[str, object]) -> list[str]:
    """The names that config.json gives the model's class."""
    named = config.get("architectures")
    return [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
