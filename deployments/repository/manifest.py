"""`model.yaml`: the options of one model. Parsed strictly; a mistake is one line that names the nearest key."""

from collections.abc import Mapping
from typing import Annotated

import yaml
from pydantic import Field, StringConstraints, ValidationError, model_validator

from deployments.contract.settings import Strict, mistakes
from deployments.contract.text_generation import SamplingDefaults

MANIFEST_BYTES = 256 * 1024
MAX_DEPTH = 32
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, where PyYAML was built with it: ten times as fast.
_PLAIN_NAME = r"^\w[^/\\\x00]*(/\w[^/\\\x00]*)*$"  # below the folder: no dot parts, no absolute path

FileName = Annotated[str, StringConstraints(pattern=_PLAIN_NAME, max_length=256)]


class Unservable(Exception):
    """A folder that cannot be served, and why, in one line without paths."""


class GenerationDefaults(SamplingDefaults, Strict):
    """The sampling fields of requests that do not set them."""


class SourceFile(Strict):
    """What a staged file must be."""

    bytes: Annotated[int, Field(ge=0)] | None = None
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")] | None = None


class Manifest(Strict):
    """The whole of `model.yaml`, optional beside config.json."""

    family: str | None = None
    """By default the family that config.json matches."""
    memory_mb: Annotated[float, Field(gt=0, le=2**30)] | None = None
    """Memory that a load reserves; by default the size of the weight files."""
    dtype: str | None = None
    pinned: bool = False
    """Whether it is never evicted."""
    warm_up: bool = False
    """Whether it is loaded and validated as soon as it is found, so that no request waits for its load."""
    max_batch_size: Annotated[int, Field(ge=1)] | None = None
    """The largest batch, where it is to be smaller than the family's."""
    generation: GenerationDefaults = GenerationDefaults()
    folder_defaults: bool | None = None
    """Whether generation_config.json has the defaults of requests; by default as in the family's settings."""
    prompt_lookup: bool = False
    """Whether greedy texts propose their own earlier tokens, so that one step may give several."""
    draft: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """A smaller model of the same repository that proposes tokens to greedy texts."""
    golden: Annotated[tuple[Mapping[str, object], ...], Field(max_length=32)] = ()
    """Every one must hold before the model answers a caller. The family defines what an example is."""
    draft_decoding: bool = False
    """Whether large JPEGs are decoded small before they are resized: faster, and not what the processor gives."""
    source: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9+.-]*://")] | None = None
    """Where the files come from, as a URL; the folder then holds nothing but model.yaml. Needs `family`."""
    files: Mapping[FileName, SourceFile] = {}
    """Sizes and SHA-256, checked before a load. Of a source only these files are staged then."""

    @model_validator(mode="after")
    def _source_needs_a_family(self) -> "Manifest":
        if self.source and not self.family:
            raise ValueError("a model with a source has to name its family")
        return self

    @model_validator(mode="after")
    def _one_proposes(self) -> "Manifest":
        if self.draft and self.prompt_lookup:
            raise ValueError("draft and prompt_lookup: one of them proposes tokens")
        return self


def parse_manifest(text: bytes) -> Manifest:
    """Raises Unservable."""
    if len(text) > MANIFEST_BYTES:
        raise Unservable(f"model.yaml is larger than {MANIFEST_BYTES // 1024} KiB")
    try:
        _refuse_endless(text)
        return Manifest.model_validate(yaml.load(text, _LOADER) or {})
    except ValidationError as invalid:
        raise Unservable(f"model.yaml: {mistakes(invalid)[0]}") from None
    except (ValueError, yaml.YAMLError, RecursionError):
        raise Unservable("model.yaml is not YAML") from None


def _refuse_endless(text: bytes) -> None:
    """Raises Unservable where parsing would take too long."""
    depth = 0
    for event in yaml.parse(text, _LOADER):
        # Aliases of aliases of aliases: a short text expands to a document without end.
        if isinstance(event, yaml.AliasEvent):
            raise Unservable("model.yaml uses aliases")
        # The time to parse grows with the square of the depth.
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise Unservable(f"model.yaml is nested more than {MAX_DEPTH} levels deep")
