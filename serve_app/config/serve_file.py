"""A file for `serve deploy`: its configurations of this runtime, and what is wrong in it or would be ignored."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from deployments.contract.settings import mistakes, nearest
from serve_app.config.config import RuntimeConfig, is_loopback, is_serve_file, read_config, read_yaml

BUILDER = "serve_app.app:build"


def runtimes_in(content: Mapping[str, Any]) -> list[RuntimeConfig]:
    """The configuration of each application that is this runtime. Raises ValueError with one line for each mistake."""
    # Imported here, because it takes seconds.
    from ray.serve.schema import ServeDeploySchema

    try:
        ServeDeploySchema.model_validate(content)
    except ValidationError as invalid:
        raise ValueError("\n".join(mistakes(invalid))) from None
    wrong = list(_ignored(content, ServeDeploySchema))
    runtimes = []
    for number, application in enumerate(content["applications"]):
        if application["import_path"] == BUILDER:
            try:
                runtime = RuntimeConfig.model_validate(application.get("args") or {})
            except ValidationError as invalid:
                wrong += mistakes(invalid, "applications", number, "args")
                continue
            runtimes.append(runtime)
            wrong += _unguarded(content, runtime, number)
            if runtime.tls_cert:
                wrong.append(f"applications.{number}.args.tls_cert: `model-runtime serve` alone reads it")
    if not runtimes and not wrong:
        wrong = [f"applications: none has the import_path {BUILDER}"]
    if wrong:
        raise ValueError("\n".join(wrong))
    return runtimes


def _ignored(value: object, annotation: object, *where: str | int) -> Iterator[str]:
    """The keys that Serve's schema does not know. Serve ignores them without a word."""
    if isinstance(value, list):
        for number, item in enumerate(value):
            yield from _ignored(item, annotation, *where, number)
    schema = next(_schemas(annotation), None)
    if schema is None or not isinstance(value, Mapping):
        return
    for key, inner in value.items():
        if key in schema.model_fields:
            yield from _ignored(inner, schema.model_fields[key].annotation, *where, key)
        else:
            place = "".join(f"{part}." for part in where)
            yield f"{place}{key}: Serve knows no such key{nearest(str(key), schema.model_fields)}"


def _schemas(annotation: object) -> Iterator[type[BaseModel]]:
    """The schemas in a type such as `list[Schema] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _schemas(inner)


def _unguarded(content: Mapping[str, Any], runtime: RuntimeConfig, number: int) -> Iterator[str]:
    """Serve listens where `http_options` says, by default everywhere; `host` in the arguments is not what it reads."""
    host = (content.get("http_options") or {}).get("host", "0.0.0.0")
    if not is_loopback(host) and not runtime.access.keys:
        reachable = f"http_options.host: {host!r} can be reached from elsewhere"
        yield f"{reachable}, so there have to be access.keys in applications.{number}.args"


def read_configs(file: Path) -> list[RuntimeConfig]:
    """The configurations in a file of either kind. Raises ValueError with one line for each mistake."""
    content = read_yaml(file)
    if not isinstance(content, Mapping) or not is_serve_file(content):
        return [read_config(file)]
    try:
        return runtimes_in(content)
    except ValueError as wrong:
        raise ValueError("\n".join(f"{file.name}: {line}" for line in str(wrong).splitlines())) from None
