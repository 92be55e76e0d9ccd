"""Requests over HTTP in a closed loop: the trial that the benchmarks of all families share."""

import asyncio
import itertools
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import httpx

from benchmarks.contest import Pace, Trial, compete
from benchmarks.environment import OUR_BIN
from benchmarks.load import wrk
from benchmarks.report import US, Table
from benchmarks.servers import Server, ServerFailed, running, settle
from serve_app.bench.loops import Answer, Measure, closed_loop, summarise

FOLDER = Path(__file__).parent
PEERS, INFINITY = FOLDER / ".venv", FOLDER / ".venv-infinity"
MODEL_ID = "model"

Same = Callable[[Any, Any], bool]


@dataclass(frozen=True, slots=True)
class Point:
    """The same request over and over, from so many connections. `amount`: what one counts for. `short`: wrk sends it,
    which costs less than a client in Python, but does not count what is under way at the end."""

    name: str
    sent: Any
    connections: int
    amount: float = 1.0
    short: bool = False


def contest(
    title: str,
    unit: str,
    servers: Sequence[Server],
    points: Sequence[Point],
    checked: Sequence[Any],
    same: Same,
    pace: Pace,
) -> Table:
    """The table of all servers at all points. What they answer to `checked` is compared by `same`."""
    answers: dict[str, list[Any]] = {}
    done = compete({server.name: _trial(server, points, checked, answers, pace) for server in servers}, pace.rounds)
    notes = [*done.notes, _agreement(answers, same), *done.failures]
    names = [server.name for server in servers]
    return Table(title, unit, [point.name for point in points], names, done.results, notes, bool(done.failures))


def ours(repository: Path, path: str, body: Callable[[Any], dict[str, Any]], answer: Callable[[Any], Any]) -> Server:
    """The command that users type."""
    command = (OUR_BIN / "model-runtime", "serve", "--models", repository, "--port", "{port}")
    return Server(US, command, path, body, answer)


def app(
    name: str,
    module: str,
    path: str,
    body: Callable[[Any], dict[str, Any]],
    answer: Callable[[Any], Any],
    *options: object,
) -> Server:
    """A module of peers/ in their environment."""
    program = (str(PEERS / "bin" / "python"), str(FOLDER / "peers" / f"{module}.py"), "--port", "{port}")
    command = (*program, *map(str, options))
    return Server(name, command, path, body, answer)


def _trial(
    server: Server, points: Sequence[Point], checked: Sequence[Any], answers: dict[str, list[Any]], pace: Pace
) -> Trial:
    def trial() -> Mapping[str, Measure]:
        with running(server, checked[0]) as url:
            for point in points:
                _load(server, url, point, 0, pace.lead_in_s)
            settle(pace.settle_s)
            answers[server.name] = [_ask(url, server, one) for one in checked]
            return {point.name: _load(server, url, point, pace.lead_in_s, pace.seconds) for point in points}

    return trial


def _load(server: Server, url: str, point: Point, lead_in_s: int, seconds: int) -> Measure:
    body = json.dumps(server.body(point.sent)).encode()
    if not point.short:
        return asyncio.run(_loop(url, body, point, lead_in_s, seconds))
    with tempfile.NamedTemporaryFile() as file:
        file.write(body)
        file.flush()
        if lead_in_s:
            wrk(url, Path(file.name), point.connections, lead_in_s)
        counted = wrk(url, Path(file.name), point.connections, seconds)
    return replace(counted, rate=counted.rate * point.amount)


async def _loop(url: str, body: bytes, point: Point, lead_in_s: int, seconds: int) -> Measure:
    """Requests that are under way at an edge of the time count by their share inside."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(120)) as client:

        async def ask(sent: bytes) -> Answer:
            async with client.post(url, data=sent, headers={"content-type": "application/json"}) as reply:
                await reply.read()
                return Answer(point.amount) if reply.status == 200 else Answer(0.0, error=str(reply.status))

        begin = asyncio.get_running_loop().time() + lead_in_s
        spans = await closed_loop(ask, itertools.repeat(body), point.connections, begin + seconds)
    counted = summarise(spans, begin, begin + seconds)
    return replace(counted, errors=sum(bool(span.error) for span in spans))


def _ask(url: str, server: Server, sent: Any) -> Any:
    reply = httpx.post(url, json=server.body(sent), timeout=120)
    if reply.status_code != 200:
        raise ServerFailed(f"{server.name} answers {reply.status_code}: {reply.text[:200]}")
    return server.answer(reply.json())


def _agreement(answers: Mapping[str, list[Any]], same: Same) -> str:
    """Who answers what we do not."""
    ours = answers.get(US)
    if ours is None:
        return "We gave no answer to compare."
    other = [
        f"{name} {sum(not same(*pair) for pair in zip(ours, theirs, strict=True))}"
        for name, theirs in answers.items()
        if not all(same(*pair) for pair in zip(ours, theirs, strict=True))
    ]
    if other:
        return f"**Not the same answers** as ours, of {len(ours)}: {', '.join(other)}."
    return f"All {len(answers)} gave the same answers to {len(ours)} requests."
