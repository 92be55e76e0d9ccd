"""Draft models: a model.yaml names another model of the same repository, which proposes tokens to it."""

from collections.abc import Mapping
from dataclasses import replace

from deployments.contract.errors import quoted
from deployments.contract.settings import nearest
from deployments.repository.model import Model


def with_draft(model: Model, models: Mapping[str, Model]) -> Model:
    """With the draft that its model.yaml names, one of `models`; the draft's content counts as its own."""
    name = model.manifest.draft
    if model.problem is not None or name is None:
        return model
    draft = models.get(name)
    if draft is None:
        return replace(model, problem=f"model.yaml: draft: no model {quoted(name)}{nearest(name, models)}")
    if (fault := _fault(draft, model)) is not None:
        return replace(model, problem=f"model.yaml: draft: {draft.name} {fault}")
    return replace(model, draft=draft, digest=f"{model.digest}-{draft.digest}")


def _fault(draft: Model, model: Model) -> str | None:
    if draft.problem is not None:
        return f"cannot be served: {draft.problem}"
    if draft.family != model.family:
        return f"serves {draft.family}, not {model.family}"
    if draft.manifest.source is not None or model.manifest.source is not None:
        return "and its model have to be folders of the repository"
    return None
