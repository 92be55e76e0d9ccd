"""Bulk work in actors of Ray Data, which hold engines of their own. Needs the extra `data`, and neither Serve nor HTTP.

An actor answers any family's requests. Each node has to find the file and the models at the same paths.
"""

import asyncio
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from deployments.contract import wire
from deployments.contract.failures import error_of
from deployments.contract.status import Suspect
from deployments.contract.types import InferRequest, InferResponse
from deployments.families.table import FAMILIES
from deployments.replica.family import model_formats
from deployments.replica.options import ReplicaOptions
from deployments.replica.replica import Replica
from deployments.repository.model import Model, find
from deployments.repository.versions import Table
from serve_app.access.caller import RequestContext
from serve_app.config.config import RuntimeConfig
from serve_app.dispatch.dispatcher import Dispatcher, Route

TASK = 64
"""Lines. What a run that is killed loses, and what an actor computes together with those of its next task."""
TASKS_AT_ONCE = 2
"""Of an actor: while the last lines of one are answered, the next one's fill the batches."""
RETRIES = 3
"""Of an actor that ends, and of a task whose actor did. Ray Data has no bound, and some line may be the cause."""
CPUS = 1.0

Span = tuple[int, int]
"""Where some lines begin and end in the file."""


def computed(config: RuntimeConfig, file: Path, spans: list[Span], actors: int) -> Iterator[bytes]:
    """The answers of these parts of the file, in order: a line of JSON for each of its lines, an `Error` where it has
    none else. Raises ValueError where there is no Ray, or no Ray Data."""
    import ray
    from ray.util.annotations import RayDeprecationWarning

    try:
        import ray.data
    except ImportError as missing:
        raise ValueError(f"--actors needs {missing.name}: pip install 'model-runtime[data]'") from None
    try:
        ray.init("auto", ignore_reinit_error=True)
    except ConnectionError:
        raise ValueError("--actors: no Ray runs here; `ray start --head` starts one, a submitted job has one") from None
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    parts: Any = ray.data.from_items([{"span": span} for span in spans], override_num_blocks=len(spans))
    with warnings.catch_warnings():
        # Ray 2.60 warns that the last two will go, and has nothing in their place.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        answered = parts.map_batches(
            Engines,
            fn_constructor_args=(config, file.absolute()),
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(size=actors, max_concurrent_calls_per_actor=TASKS_AT_ONCE),
            num_cpus=CPUS,
            num_gpus=min(1.0, sum(config.settings(family.name).num_gpus or 0.0 for family in FAMILIES)),
            max_restarts=RETRIES,
            max_task_retries=RETRIES,
        )
    for row in answered.iter_rows():
        yield from row["answers"].splitlines(keepends=True)


def spans_of(file: Path, done: int) -> list[Span]:
    """Of `TASK` lines each, of those behind the first `done`. Blank lines are none."""
    spans: list[Span] = []
    with file.open("rb") as lines:
        at, ends = 0, []
        for line in lines:
            at += len(line)
            if line.strip():
                ends.append(at)
    begins = [0, *ends]
    for first in range(done, len(ends), TASK):
        spans.append((begins[first], ends[min(first + TASK, len(ends)) - 1]))
    return spans


class Engines:
    """An actor: the replicas of the families that are asked for, each made by the first request."""

    def __init__(self, config: RuntimeConfig, file: Path) -> None:
        self._file = file
        models, formats = config.repository(), model_formats(FAMILIES)
        self._options: dict[str, ReplicaOptions] = {}
        for family in FAMILIES:
            settings = config.settings(family.name)
            # A line waits for its turn here, where nobody else does.
            patient = {"num_gpus": settings.num_gpus or 0.0, "deadline_s": settings.longest_deadline_s}
            settings = settings.model_copy(update=patient)
            places = (config.cache, config.sources, config.link_targets)
            self._options[family.name] = ReplicaOptions(family, models, formats, settings, *places)
        routes = [
            Route(options.family.name, options.family.request, name in formats, options.settings)
            for name, options in self._options.items()
        ]
        repository = next(iter(self._options.values())).repository()
        self._dispatcher = Dispatcher(routes, {}, _Models(repository.models()))
        self._replicas: dict[str, Replica] = {}

    async def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[bytes]]:
        return {"answers": [await self._answers(int(begin), int(end)) for begin, end in batch["span"]]}

    async def _answers(self, begin: int, end: int) -> bytes:
        lines = [line for line in _read(self._file, begin, end).split(b"\n") if line.strip()]
        # Computed again, a line has the id that it had, and so the seed.
        answers = await asyncio.gather(*(self._answer(line, f"{begin}-{number}") for number, line in enumerate(lines)))
        return b"".join(wire.encode(response, wire.JSON) + b"\n" for response in answers)

    async def _answer(self, line: bytes, request_id: str) -> InferResponse:
        try:
            request = wire.decode(line, wire.JSON, InferRequest)
            call = await self._dispatcher.prepare(request, RequestContext(request_id))
            replica = self._replica(call.family)
            await replica.ready()
            return await replica.respond(call.call, None)  # in a task of its own: `gather` makes one of each line
        except Exception as cause:
            return error_of(cause, request_id)

    def _replica(self, family: str) -> Replica:
        if family not in self._replicas:
            options = self._options[family]
            self._replicas[family] = options.family.replica(options)  # type: ignore[call-arg]  # each family's takes it
        return self._replicas[family]


def _read(file: Path, begin: int, end: int) -> bytes:
    with file.open("rb") as lines:
        lines.seek(begin)
        return lines.read(end - begin)


class _Models:
    """A registry: the repository as it was at the start."""

    def __init__(self, models: Mapping[str, Model]) -> None:
        self.table = Table(dict(models))

    async def find_model(self, model_id: str, family: str) -> Model:
        return find(self.table.models, model_id, family)

    async def died_alone(self, suspect: Suspect) -> bool:
        return False

    def answered_alone(self, digest: str) -> None:
        pass
