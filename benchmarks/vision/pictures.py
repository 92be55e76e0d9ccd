"""Pictures posted to classifiers over HTTP: the trial that `image` and `ingress` share."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.contest import Pace, Trial, compete
from benchmarks.engine_process import ENGINE, engine_process
from benchmarks.load import wrk
from benchmarks.models import as_base64
from benchmarks.report import Table
from benchmarks.servers import Server, ServerFailed, running, settle
from serve_app.bench.loops import Measure

FEWEST_TURNS = 4
LONGER = 4

Answers = dict[str, list[Any]]
"""Server to what it answered to each picture."""


@dataclass(frozen=True, slots=True)
class Point:
    """One picture over and over, from so many connections. `patience`: how many times the usual measuring time."""

    name: str
    picture: bytes
    connections: int
    patience: int = 1


def contest(
    title: str,
    servers: Sequence[Server],
    points: Sequence[Point],
    checked: Sequence[bytes],
    pace: Pace,
    engine_of: Path | None = None,
) -> Table:
    """The table of all servers at all points; `checked` are the pictures whose answers are compared.

    `engine_of`: a model's folder, whose engine is measured too.
    """
    answers: Answers = {}
    trials = {server.name: _trial(server, points, checked, answers, pace) for server in servers}
    if engine_of is not None:
        trials[ENGINE] = _engine_trial(engine_of, points, checked, answers, pace)
    done = compete(trials, pace.rounds)
    notes = [*done.notes, _agreement(answers, len(checked)), *done.failures]
    names = [point.name for point in points]
    return Table(title, "requests/s", names, list(trials), done.results, notes, bool(done.failures))


def send_base64(image_data: bytes) -> dict[str, Any]:
    return {"image_data": as_base64(image_data)}


def _trial(server: Server, points: Sequence[Point], checked: Sequence[bytes], answers: Answers, pace: Pace) -> Trial:
    def trial() -> Mapping[str, Measure]:
        with tempfile.TemporaryDirectory() as folder, running(server, checked[0]) as url:
            answers[server.name] = [_ask(url, server, picture) for picture in checked]
            bodies = {point.name: Path(folder) / f"{number}.json" for number, point in enumerate(points)}
            for point in points:
                bodies[point.name].write_text(json.dumps(server.body(point.picture)), "utf-8")
                wrk(url, bodies[point.name], point.connections, pace.lead_in_s)
            settle(pace.settle_s)
            return {point.name: _measured(url, bodies[point.name], point, pace) for point in points}

    return trial


def _engine_trial(
    model: Path, points: Sequence[Point], checked: Sequence[bytes], answers: Answers, pace: Pace
) -> Trial:
    def trial() -> Mapping[str, Measure]:
        with tempfile.TemporaryDirectory() as name, engine_process("benchmarks.vision.bare_engine", model) as tell:

            def saved(pictures: Sequence[bytes]) -> list[str]:
                files = [Path(name) / f"{number}.jpg" for number in range(len(pictures))]
                for file, picture in zip(files, pictures, strict=True):
                    file.write_bytes(picture)
                return [str(file) for file in files]

            answers[ENGINE] = tell({"pictures": saved(checked)})
            measures = {}
            for point in points:
                load = {"connections": point.connections, "lead_in_s": pace.lead_in_s, "seconds": pace.seconds}
                measures[point.name] = Measure(**tell({"pictures": saved([point.picture]), **load}))
            return measures

    return trial


def _measured(url: str, body: Path, point: Point, pace: Pace) -> Measure:
    wrk(url, body, point.connections, pace.lead_in_s)
    seconds = pace.seconds * point.patience
    measure = wrk(url, body, point.connections, seconds)
    if measure.rate * seconds < FEWEST_TURNS * point.connections:
        # What is under way at the end is not counted: with so few that would be a good part.
        measure = wrk(url, body, point.connections, LONGER * seconds)
    return measure


def _ask(url: str, server: Server, picture: bytes) -> Any:
    reply = httpx.post(url, json=server.body(picture), timeout=120)
    if reply.status_code != 200:
        size = len(picture)
        raise ServerFailed(f"{server.name} answers {reply.status_code} to {size} bytes of JPEG: {reply.text[:200]}")
    return server.answer(reply.json())


def _agreement(answers: Answers, count: int) -> str:
    """Whether all servers answered alike, and which pictures they did not agree on."""
    rows = list(zip(*answers.values(), strict=True))
    different = [number for number, row in enumerate(rows) if len({json.dumps(answer) for answer in row}) > 1]
    kinds = len({json.dumps(row) for row in rows})
    if not different:
        return (
            f"All {len(answers)} servers gave the same answer to each of {count} pictures ({kinds} different answers)."
        )
    told = "; ".join(
        f"picture {number}: " + ", ".join(f"{name} {given[number]!r}" for name, given in answers.items())
        for number in different
    )
    return f"**Not the same answer** to {len(different)} of {count} pictures: {told}."
