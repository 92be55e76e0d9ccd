"""`model.yaml`: what its owner says of a model. Read strictly; a mistake is one line that names the nearest key."""

from collections.abc import Mapping
from typing import Annotated, TypeVar

import yaml
from pydantic import Field, StringConstraints, ValidationError, model_validator

from deployments.contract.settings import Strict, mistakes
from deployments.contract.types import InferRequest, SamplingDefaults

MANIFEST_BYTES = 256 * 1024
DEEPEST = 32
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, where PyYAML was built with it: ten times as fast.
_PLAIN_NAME = r"^\w[^/\\\x00]*(/\w[^/\\\x00]*)*$"  # below the folder: no dot parts, no absolute path

FileName = Annotated[str, StringConstraints(pattern=_PLAIN_NAME, max_length=256)]
RequestT = TypeVar("RequestT", bound=InferRequest)


class Unservable(Exception):
    """A folder that cannot be served, and why, in one line without paths."""


class GenerationDefaults(SamplingDefaults, Strict):
    """What a request gets where it does not say."""


class SourceFile(Strict):
    """What a staged file must be."""

    bytes: Annotated[int, Field(ge=0)] | None = None
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")] | None = None


class Manifest(Strict):
    """The whole of `model.yaml`, optional beside config.json."""

    family: str | None = None
    """Read off config.json's architectures where it is not said."""
    memory_mb: Annotated[float, Field(gt=0, le=2**30)] | None = None
    """What the model is said to need; its weight files' size by default."""
    dtype: str | None = None
    pinned: bool = False
    """Whether it stays in memory once it is there."""
    warm_up: bool = False
    """Whether it is loaded and tried as soon as it is found, so that no request waits for it."""
    max_batch_size: Annotated[int, Field(ge=1)] | None = None
    """The largest batch, where it is to be smaller than the family's."""
    generation: GenerationDefaults = GenerationDefaults()
    golden: Annotated[tuple[Mapping[str, object], ...], Field(max_length=32)] = ()
    """Every one must hold before the model answers a caller. The family says what an example is."""
    draft_decoding: bool = True
    """Whether large JPEGs may be decoded small before they are resized."""
    source: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9+.-]*://")] | None = None
    """Where the files come from, as a URL; the folder then holds nothing but model.yaml. Needs `family`."""
    files: Mapping[FileName, SourceFile] = {}
    """Sizes and SHA-256, held against the files before they are loaded. Of a source nothing else is staged then."""

    @model_validator(mode="after")
    def _source_needs_a_family(self) -> "Manifest":
        if self.source and not self.family:
            raise ValueError("a model with a source has to name its family")
        return self

    def with_defaults(self, request: RequestT) -> RequestT:
        """The request, if it samples, with this model's generation defaults where it says nothing."""
        if not isinstance(request, SamplingDefaults):
            return request
        defaults = self.generation.model_dump(exclude_none=True)
        silent = {name: value for name, value in defaults.items() if getattr(request, name, value) is None}
        return request.model_copy(update=silent) if silent else request


def parse_manifest(text: bytes) -> Manifest:
    """Raises Unservable."""
    if len(text) > MANIFEST_BYTES:
        raise Unservable(f"model.yaml is larger than {MANIFEST_BYTES // 1024} KiB")
    try:
        _refuse_what_never_ends(text)
        return Manifest.model_validate(yaml.load(text, _LOADER) or {})
    except ValidationError as invalid:
        raise Unservable(f"model.yaml: {mistakes(invalid)[0]}") from None
    except (ValueError, yaml.YAMLError, RecursionError):
        raise Unservable("model.yaml is not YAML") from None


def _refuse_what_never_ends(text: bytes) -> None:
    """Raises Unservable."""
    depth = 0
    for event in yaml.parse(text, _LOADER):
        # An alias of aliases of aliases is short to write and endless to walk.
        if isinstance(event, yaml.AliasEvent):
            raise Unservable("model.yaml uses aliases")
        # The time to read what is nested grows with the square of its depth.
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise Unservable(f"model.yaml is nested more than {DEEPEST} levels deep")
