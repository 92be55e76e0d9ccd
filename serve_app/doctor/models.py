"""Checks of the repository: every folder is read, and every model loaded once, in a child."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from deployments.replica.family import Family, model_formats
from deployments.repository.local import Repository
from deployments.repository.model import Model
from deployments.residency.ledger import MIB
from deployments.system.cache_folder import cache_folder
from deployments.system.worker_process import RequestFailed, WorkerFailed
from serve_app.config.config import RuntimeConfig
from serve_app.doctor.findings import Finding, fault, ok, warning

LOAD_S = 660.0
"""Beyond the child's own limit."""
_CURES: Mapping[str, str] = {
    "out_of_memory": "set families.{family}.required_mem_mb or num_gpus higher, or have a machine with more memory",
    "unavailable": "make its source reachable from here, or copy its files into the folder",
    "model_load_failed": "change the folder as the reason says, or take it out of the repository",
}
_UNKNOWN = "have a look at the folder; `model-runtime serve` writes the whole reason to its log"


class Child(Protocol):
    """A WorkerProcess of serve_app.doctor.worker."""

    def ask(self, request: object, timeout_s: float) -> Any:
        """Raises RequestFailed, WorkerFailed."""


def repository(config: RuntimeConfig, families: Sequence[Family], child: Child) -> Iterator[Finding]:
    try:
        root = config.repository()
        found = Repository(root, model_formats(families), config.sources, config.link_targets).scan()
    except (ValueError, OSError) as failure:
        yield fault("repository", str(failure), "set `models` or --models to a folder or a URL that can be read")
        return
    if not found:
        cure = "put Hugging Face folders there: <root>/<model_id>/config.json"
        yield warning("repository", f"{root} has no models", cure)
        return
    yield ok("repository", f"{root}, {len(found)} model{'s' if len(found) > 1 else ''}")
    absolute = config.model_copy(update={"models": root, "cache": cache_folder(config.cache).absolute()})
    for model in sorted(found, key=lambda one: one.name):
        if model.problem is not None or model.family is None:
            yield fault(f"model {model.name}", model.problem or "no family serves it", _CURES["model_load_failed"])
        else:
            yield _loaded(model, absolute, child)


def _loaded(model: Model, config: RuntimeConfig, child: Child) -> Finding:
    what = f"model {model.name}"
    try:
        answer = child.ask({"load": model.name, "config": config.model_dump_json()}, LOAD_S)
    except WorkerFailed as failed:
        step = f" while it was {failed.step}" if failed.step else ""
        cure = _CURES["out_of_memory"].format(family=model.family) if failed.reason == "out of memory" else _UNKNOWN
        return fault(what, f"its process ended ({failed}){step}", cure)
    except RequestFailed as failed:
        return fault(what, str(failed), _UNKNOWN)
    if error := answer["error"]:
        return fault(what, error["message"], _CURES.get(error["code"], _UNKNOWN).format(family=model.family))
    notes = f"; {', '.join(answer['notes'])}" if answer["notes"] else ""
    return ok(what, f"{model.family}, {answer['bytes'] / MIB:.0f} MiB, loaded in {answer['seconds']:.1f} s{notes}")
