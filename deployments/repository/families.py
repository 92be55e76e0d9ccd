"""Which family serves a model, by its model.yaml or its config.json. Knows no engine, no Ray."""

from collections.abc import Callable, Mapping

from pydantic import BaseModel, ConfigDict, ImportString, ValidationError

from deployments.contract.errors import quoted
from deployments.contract.settings import Strict, mistakes, nearest
from deployments.repository.manifest import Manifest, Unservable

Matches = Callable[[Mapping[str, object]], bool]
"""Whether a family serves the model with this config.json."""


Context = Callable[[Mapping[str, object]], int | None]
"""How many tokens the model with this config.json takes, question and answer together; None where it does not say."""


class ModelFormat(BaseModel):
    """What the repository has to know of a family. `model_dump(mode="json")` gives import paths."""

    model_config = ConfigDict(frozen=True)

    matches: ImportString[Matches]
    context: ImportString[Context] | None = None
    golden: ImportString[type[Strict]] | None = None
    """An entry of model.yaml's `golden`."""


def family_of(manifest: Manifest, config: Mapping[str, object], formats: Mapping[str, ModelFormat]) -> str:
    """The family that model.yaml names, else the first that matches config.json.

    Raises Unservable where there is none, or where model.yaml is wrong for it.
    """
    family = manifest.family or next((name for name, form in formats.items() if form.matches(config)), None)
    if family is None:
        raise Unservable(f"no family serves architecture {quoted(', '.join(architectures(config)) or 'none')}")
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
    """How many tokens a model of this family takes, if the family counts them and config.json says it."""
    context = formats[family].context
    return context(config) if context is not None else None


def architectures(config: Mapping[str, object]) -> list[str]:
    """The names that config.json gives the model's class."""
    named = config.get("architectures")
    return [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
