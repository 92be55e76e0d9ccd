"""Which family serves a model, by its model.yaml or its config.json. Knows no engine, no Ray."""

from collections.abc import Callable, Mapping

from pydantic import BaseModel, ConfigDict, ImportString, ValidationError

from deployments.contract.errors import quoted
from deployments.contract.settings import Strict, mistakes, nearest
from deployments.repository.manifest import Manifest, Unservable

Matches = Callable[[Mapping[str, object]], bool]
"""Whether a family serves the model with this config.json."""


class ModelFormat(BaseModel):
    """What the repository has to know of a family. `model_dump(mode="json")` gives both as import paths."""

    model_config = ConfigDict(frozen=True)

    matches: ImportString[Matches]
    golden: ImportString[type[Strict]] | None = None
    """An entry of model.yaml's `golden`."""


class ModelFormats:
    """The formats of all families, by family."""

    def __init__(self, formats: Mapping[str, ModelFormat]) -> None:
        self.formats = formats

    def family_of(self, manifest: Manifest, config: Mapping[str, object]) -> str:
        """Raises Unservable where model.yaml is wrong for the family, or no family serves the model."""
        if manifest.family:
            return self.named(manifest)
        for family, form in self.formats.items():
            if form.matches(config):
                return self._with_its_examples(family, manifest)
        raise Unservable(f"no family serves architecture {quoted(', '.join(architectures(config)) or 'none')}")

    def named(self, manifest: Manifest) -> str:
        """The family that model.yaml names. Raises Unservable."""
        family = manifest.family or ""
        if family not in self.formats:
            raise Unservable(f"model.yaml: no family {quoted(family)}{nearest(family, self.formats)}")
        return self._with_its_examples(family, manifest)

    def _with_its_examples(self, family: str, manifest: Manifest) -> str:
        golden = self.formats[family].golden
        for number, example in enumerate(manifest.golden):
            if golden is None:
                raise Unservable(f"model.yaml: {family} has no golden examples")
            try:
                golden.model_validate(example)
            except ValidationError as invalid:
                raise Unservable(f"model.yaml: {mistakes(invalid, 'golden', number)[0]}") from None
        return family


def architectures(config: Mapping[str, object]) -> list[str]:
    """The names that config.json gives the model's class."""
    named = config.get("architectures")
    return [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
