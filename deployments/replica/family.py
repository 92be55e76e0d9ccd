"""`Family`: a row of the table of families. All that the runtime knows of a family is read off its row.

Imports neither torch nor Ray, so that the command line can read the table.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, cast

from deployments.contract.settings import FamilySettings
from deployments.contract.types import InferRequest, InferResponse
from deployments.repository.families import Context, Lacks, Matches, ModelFormat
from deployments.validation.golden import GoldenExample

if TYPE_CHECKING:
    from deployments.replica.replica import Replica


@dataclass(frozen=True, slots=True)
class Form:
    """How multipart/form-data becomes a request: `curl -F model_id=… -F file=@…`."""

    request: type[InferRequest]
    file: str
    """The form's file. Its name identifies the family: no two families have the same."""
    field: str
    """The request's field that takes the file's bytes."""
    integers: tuple[str, ...] = ()
    """Optional fields of the form that are whole numbers."""
    fractions: tuple[str, ...] = ()
    """Optional fields of the form that are numbers from 0 to 1."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The first request that `model-runtime serve` sends to a model of the family."""

    fields: Mapping[str, object]
    """The request's, without `model_id`. A Path stands for the bytes of that file."""
    shown: Callable[[Any], str]
    """What of the answer, a `result` of the family, is printed."""


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument of a command, and the field of the request that it sets. None leaves the field out."""

    name: str
    """`--name` is an option."""
    field: str
    type: Callable[[str], object] = str
    """`Path`: a file, whose bytes the field takes."""
    default: object = None
    help: str | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """What a command writes into a file, beside what it prints."""

    help: str
    write: Callable[[Any, Any, Path], None]
    """Takes the request, the answer and the file. Raises OSError, ValueError."""


@dataclass(frozen=True, slots=True)
class Command:
    """`model-runtime infer <name> MODEL …`."""

    name: str
    help: str
    arguments: tuple[Argument, ...]
    shown: Callable[[Any], str]
    """The answer, a `result` of the family, as it is printed."""
    streams: bool = False
    """Whether there is `--stream`, which prints the text of each chunk as it comes."""
    output: Output | None = None
    """Whether there is `--output FILE`, and what it writes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One row. A family without models leaves out `matches` and `golden`."""

    name: str
    request: type[InferRequest]
    result: type[InferResponse]
    deployment: str
    """`package.module:Class` of its replica, made from ReplicaOptions. A path, because replicas import Ray."""
    options: type[FamilySettings] = FamilySettings
    """What an operator may set under `families.<name>`."""
    matches: Matches | None = None
    """Whether it serves a model, by its config.json. A function of a module: the registry imports it by its path."""
    context: Context | None = None
    """How many tokens a request and its answer may have together, by config.json; a function of a module too."""
    marker: str | None = None
    """A file that only folders of its models hold: they are served by it whatever their config.json is."""
    work: Callable[[Any], float] = lambda request: 1.0
    """How much there is to compute for a request, in any unit: measured paces make seconds of it."""
    golden: type[GoldenExample] | None = None
    lacks: Lacks | None = None
    """What a folder lacks that it matches, by its config.json and the names of its files. A function of a module."""
    form: Form | None = None
    sample: Sample | None = None
    client: Command | None = None

    @property
    def replica(self) -> "type[Replica]":
        """The deployment's class. Imports it."""
        return cast("type[Replica]", resolve_name(self.deployment))

    def request_for(self, model_id: str, fields: Mapping[str, object]) -> InferRequest:
        """The request with these fields, a Path's bytes in its place. Raises OSError, ValidationError."""
        read = {name: value.read_bytes() if isinstance(value, Path) else value for name, value in fields.items()}
        return self.request.model_validate({"model_id": model_id} | read)


def model_formats(families: Iterable[Family]) -> dict[str, ModelFormat]:
    """By family, of those that have models."""
    return {
        f.name: ModelFormat(matches=f.matches, context=f.context, golden=f.golden, lacks=f.lacks, marker=f.marker)
        for f in families
        if f.matches is not None
    }
