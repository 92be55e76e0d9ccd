"""Every setting of the runtime, one strict model. Printed by `model-runtime config`."""

import ipaddress
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Self, cast

import yaml
from pydantic import Field, SerializeAsAny, ValidationError, field_validator, model_validator
from pydantic_core import InitErrorDetails

from deployments.contract.settings import DEFAULT_SOURCES, FamilySettings, IngressAutoscaling, Strict, mistakes
from deployments.families.table import FAMILIES
from serve_app.access.api_keys import AccessSettings

Url = Annotated[str, Field(pattern=r"^[a-z][a-z0-9+.-]*://")]
Origin = Annotated[str, Field(pattern=r"^(\*|[a-z][a-z0-9+.-]*://[^/\s]+)$")]

EXPORTER = "opentelemetry-exporter-otlp-proto-http"
PROJECT = Path(__file__).resolve().parents[2]


class IngressSettings(Strict):
    """The deployment that decodes requests and sends them to their families."""

    autoscaling: IngressAutoscaling = IngressAutoscaling(max_replicas=1, target_ongoing_requests=64)
    """Unset, `model-runtime serve` keeps two replicas where there are four CPUs or more."""
    num_cpus: Annotated[float, Field(ge=0)] = 0.25
    max_body_mb: Annotated[float, Field(gt=0)] = 32
    """A larger request body is refused with `payload_too_large`, unread."""
    max_held_mb: Annotated[float, Field(gt=0)] = 512
    """What the bodies of all requests under way may take together."""
    max_prompt_kb: Annotated[float, Field(gt=0)] = 1024
    """A longer prompt is refused with `prompt_too_long` before it is tokenised."""
    allowed_origins: tuple[Origin, ...] = ()
    """Web origins (`https://chat.example.com`, or `*` for all) whose scripts a browser lets call the runtime (CORS)."""
    access_log: bool = False
    """Whether each answered request is a line of the ingress's log."""
    traces: bool = False
    """Whether spans of each request are exported by OTLP, as OpenTelemetry's own variables of the environment say
    (OTEL_EXPORTER_OTLP_ENDPOINT and others). Needs the extra `tracing`."""
    home_page: bool | None = None
    """Whether `/` is a page for browsers: what runs, and a playground. Absent: where there are no keys, which is on
    loopback alone. With keys the page asks for one."""

    @model_validator(mode="after")
    def _with_an_exporter(self) -> Self:
        if self.traces:
            try:
                version(EXPORTER)
            except PackageNotFoundError:
                raise ValueError(f"traces need {EXPORTER}: pip install 'model-runtime[tracing]'") from None
        return self

    @property
    def max_body_bytes(self) -> int:
        return int(self.max_body_mb * 2**20)


class RuntimeConfig(Strict):
    """The whole runtime."""

    models: Url | Path = Path("models")
    """The model repository: a URL that fsspec knows (s3://, gs://, hf://), or a folder. A relative path is searched in
    the current folder, then beside the package."""
    sources: tuple[Url, ...] = DEFAULT_SOURCES
    """Beginnings of the URLs from which a model.yaml may have its model fetched."""
    link_targets: tuple[Path, ...] = ()
    """Folders outside the repository that symbolic links in it may lead to. Links within it need none."""
    cache: Path | None = None
    """Where each node keeps staged models, compiled forwards, and the results of its validations and probes. Belongs to
    the runtime's user alone. Absent: ~/.cache/model-runtime; without a home, a folder beside temporary files."""
    ingress: IngressSettings = IngressSettings()
    families: Mapping[str, SerializeAsAny[FamilySettings]] = {}
    """By family name, each an instance of the family's `options`; a family that is not named has the defaults."""
    host: str = "127.0.0.1"
    """Where `model-runtime serve` listens. Any other address than loopback needs keys."""
    tls_cert: Path | None = None
    """A certificate in PEM, with those between it and its root: `model-runtime serve` then speaks HTTPS alone, and
    gRPC with TLS alone. Read at the start."""
    tls_key: Path | None = None
    """The certificate's private key, in PEM and without a password."""
    grpc_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """Where gRPC listens, at `host`, on each node with an ingress replica. Absent: nowhere."""
    ray_dashboard: bool = True
    """Whether `model-runtime serve` starts Ray's dashboard, at 127.0.0.1:8265, in nine processes of some 190 MiB."""
    quarantine_s: Annotated[float, Field(ge=0)] = 3600
    """How long an input is refused that has ended two replicas which computed nothing else. 0: not at all."""
    access: AccessSettings = AccessSettings()

    @field_validator("families", mode="before")
    @classmethod
    def _read_by_each_familys_options(cls, families: object) -> object:
        if not isinstance(families, Mapping):
            return families
        read, wrong = {}, []
        for name, settings in families.items():
            try:
                read[name] = _options_of(name).model_validate(settings)
            except ValidationError as invalid:
                wrong += [{**error, "loc": (name, *error["loc"])} for error in invalid.errors(include_url=False)]
        if wrong:
            raise ValidationError.from_exception_data(cls.__name__, cast("list[InitErrorDetails]", wrong))
        return read

    @model_validator(mode="after")
    def _guarded(self) -> "RuntimeConfig":
        if not (is_loopback(self.host) or self.access.keys):
            raise ValueError(f"host {self.host!r} can be reached from elsewhere, so there have to be access.keys")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key belong together")
        return self

    def settings(self, family: str) -> FamilySettings:
        return self.families.get(family) or _options_of(family)()

    @property
    def grpc_address(self) -> str | None:
        if self.grpc_port is None:
            return None
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.grpc_port}"

    @property
    def tls_files(self) -> tuple[Path, Path] | None:
        """Certificate and key, as absolute paths."""
        return (self.tls_cert.absolute(), self.tls_key.absolute()) if self.tls_cert and self.tls_key else None

    def repository(self) -> Path | str:
        """The repository's absolute path, or its URL. Raises ValueError if there is no such folder."""
        if isinstance(self.models, str):
            return self.models
        places = [self.models] if self.models.is_absolute() else [Path.cwd() / self.models, PROJECT / self.models]
        for place in places:
            if place.is_dir():
                return place.resolve()
        raise ValueError(f"models: there is no folder {str(self.models)!r}")


def _options_of(name: object) -> type[FamilySettings]:
    """Of a family that is not in the table, as the tests have one, the options of all families."""
    return next((family.options for family in FAMILIES if family.name == name), FamilySettings)


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_config(file: Path) -> RuntimeConfig:
    """The configuration in a YAML file. Raises ValueError with one line for each mistake."""
    content = read_yaml(file)
    if is_serve_file(content):
        raise ValueError(f"{file.name}: a file for `serve deploy`; what is wanted here is what its `args` hold")
    try:
        return RuntimeConfig.model_validate(content)
    except ValidationError as invalid:
        raise ValueError("\n".join(f"{file.name}: {line}" for line in mistakes(invalid))) from None


def is_serve_file(content: object) -> bool:
    return isinstance(content, Mapping) and "applications" in content


def read_yaml(file: Path) -> object:
    """What a YAML file holds; an empty one, an empty mapping. Raises ValueError."""
    try:
        return yaml.safe_load(file.read_text("utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as bad:
        raise ValueError(f"{file.name}: {bad}") from None
