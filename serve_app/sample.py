"""The first answers after `model-runtime serve`: each family's sample, and the command that sends it. Knows no Ray."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from deployments.contract import wire
from deployments.contract.errors import ServingError
from deployments.contract.types import InferRequest
from deployments.replica.family import Family, Sample
from serve_app.client.client import ModelRuntimeClient


def sample_lines(client: ModelRuntimeClient, families: Sequence[Family], url: str) -> list[str]:
    """For each family with a sample and a model: the command for its first model, and the answer below."""
    first: dict[str | None, str] = {}
    for status in client.models():
        first.setdefault(status.family, status.model_id)
    return [
        _answered(client, family, family.sample, first[family.name], url)
        for family in families
        if family.sample is not None and family.name in first
    ]


def _answered(client: ModelRuntimeClient, family: Family, sample: Sample, model_id: str, url: str) -> str:
    request = family.request_for(model_id, sample.fields)
    try:
        answer = sample.shown(client.infer(request))
    except ServingError as failure:
        answer = f"{failure.code}: {failure.message}"
    return f"{_command(family, request, sample, url)}\n  " + answer.replace("\n", "\n  ")


def _command(family: Family, request: InferRequest, sample: Sample, url: str) -> str:
    """A form where the family has one: a file's bytes are too many for a command."""
    if family.form and isinstance(file := sample.fields.get(family.form.field), Path):
        return f"curl -F model_id={shlex.quote(request.model_id)} -F {family.form.file}=@{_shortest(file)} {url}/infer"
    body = shlex.quote(wire.encode(request, wire.JSON).decode())
    return f"curl {url}/infer -H 'content-type: application/json' -d {body}"


def _shortest(path: Path) -> str:
    try:
        return shlex.quote(str(path.relative_to(Path.cwd())))
    except ValueError:
        return shlex.quote(str(path))
