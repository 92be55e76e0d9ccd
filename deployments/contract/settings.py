"""The settings of a family's deployment, and strict reading of settings. Imports neither torch nor Ray."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

DEFAULT_SOURCES = ("s3://", "gs://", "hf://")
LONGEST_REQUEST_S = 3600
"""So long a process that is to be replaced goes on for the requests that it has, and HAProxy waits for a byte."""


def is_url(location: str) -> bool:
    """Whether a location is a URL that fsspec opens, and no local path."""
    return "://" in location


def location(text: str) -> Path | str:
    """A model repository, as it is named in JSON."""
    return text if is_url(text) else Path(text)


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or an empty text where no known name is similar."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


class Strict(BaseModel):
    """Settings in which an unknown key is an error that names the nearest known one."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for key in values.keys() - cls.model_fields.keys():
                raise ValueError(f"unknown key {key!r}{nearest(str(key), cls.model_fields)}")
        return values


def mistakes(invalid: ValidationError, *below: str | int) -> list[str]:
    """One line for each mistake: where it is, `below` these keys, and what is wrong."""
    lines = []
    for error in invalid.errors():
        where, what = ".".join(map(str, (*below, *error["loc"]))), error["msg"].removeprefix("Value error, ")
        lines.append(f"{where}: {what}" if where else what)
    return lines


class IngressAutoscaling(Strict):
    """Replicas follow the number of requests under way: `target_ongoing_requests` for each replica."""

    min_replicas: Annotated[int, Field(ge=0)] = 1
    max_replicas: Annotated[int, Field(ge=1)] = 2
    target_ongoing_requests: Annotated[float, Field(gt=0)] = 16
    upscale_delay_s: Annotated[float, Field(ge=0)] = 10
    downscale_delay_s: Annotated[float, Field(ge=0)] = 300

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} is above max_replicas {self.max_replicas}")
        return self


class Autoscaling(IngressAutoscaling):
    """Of a family: replicas follow the work that waits. `target_ongoing_requests` calls may be at a replica before the
    model that they ask for gets a further copy."""

    target_queue_s: Annotated[float, Field(gt=0)] = 2
    """So many seconds of work may wait in each replica; a replica is added for more."""


class FamilySettings(Strict):
    """One family's deployment. A family with settings of its own has a subclass, in its folder."""

    READ_AT_START: ClassVar[frozenset[str]] = frozenset(
        {"num_cpus", "num_gpus", "accelerator_type", "required_mem_mb", "max_cpu_share", "max_batch_size"}
    )
    """What a replica reads when it starts: a change of it replaces the family's replicas. All others reach them as they
    run."""

    autoscaling: Autoscaling = Autoscaling()
    num_cpus: Annotated[float, Field(ge=0)] = 0.1
    """CPUs that Ray's scheduler sets aside for a replica. Two replicas of each of five families, and of the ingress,
    fit two CPUs: else a family without a replica may find no room for its first one."""
    num_gpus: Annotated[float, Field(ge=0)] | None = None
    """Share of a GPU for each replica. Absent: 0.25 where the cluster has a GPU, else 0."""
    accelerator_type: Annotated[str, Field(min_length=1)] | None = None
    """Replicas run only on nodes with GPUs of this kind, by Ray's name of it: L4, A100-80G. Absent: on any."""
    required_mem_mb: Annotated[int, Field(ge=1)] | None = None
    """Memory for the models of one replica, above its process's size without models. Each load reserves its share.
    Absent: 70 % of the node's memory (its cgroup's limit included), in equal shares for the replicas on it whose
    families have models; on a GPU, 90 % of the replica's share of it."""
    max_cpu_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the node's cores that one replica may compute on."""
    max_ongoing_requests: Annotated[int, Field(ge=1)] = 64
    """Concurrent requests for one model in one replica; further ones wait in the ingress."""
    max_queued_requests: Annotated[int, Field(ge=1)] = 1024
    """Requests that may wait in the ingress; one more is refused with `overloaded`."""
    max_queued_per_model: Annotated[int, Field(ge=1)] = 512
    """How many of those may be for one model."""
    max_batch_size: Annotated[int, Field(ge=1)] = 16
    deadline_s: Annotated[float, Field(gt=0)] = 60
    """How long a request may take if it sets no deadline of its own; a stream, how long it may be silent."""
    max_deadline_s: Annotated[float, Field(gt=0)] | None = None
    """The longest deadline that a caller may set with `x-deadline-ms`. Absent: `deadline_s`."""
    unload_idle_s: Annotated[float, Field(gt=0)] | None = None
    """A model unused for so long is unloaded. Absent: only when another model needs its memory."""
    preload: tuple[str, ...] = ()
    """Models that every replica loads before it accepts requests."""

    @model_validator(mode="after")
    def _deadlines_ordered(self) -> Self:
        if self.max_deadline_s is not None and self.max_deadline_s < self.deadline_s:
            raise ValueError(f"max_deadline_s {self.max_deadline_s:g} is below deadline_s {self.deadline_s:g}")
        return self

    @property
    def longest_deadline_s(self) -> float:
        return self.max_deadline_s or self.deadline_s


class ImageSettings(FamilySettings):
    """Of a family that takes images."""

    max_megapixels: Annotated[float, Field(gt=0)] = 40
    """A larger image is refused by its header."""
    decode_budget_mb: Annotated[int, Field(ge=1)] = 512
    """What the decodes under way in one replica may take together."""
