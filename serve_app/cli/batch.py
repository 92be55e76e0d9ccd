"""`model-runtime batch in.jsonl out.jsonl`: bulk work. Line n of the output answers request n of the input.

A run that was ended goes on behind the last whole line of the output, so each request is answered once. With
`--actors` no runtime is asked: actors of Ray Data compute the answers.
"""

import argparse
import asyncio
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from deployments.contract import wire
from deployments.contract.errors import ServingError
from deployments.contract.types import Error, InferRequest, InferResponse
from serve_app.cli import connection
from serve_app.client import bulk
from serve_app.client.client import AsyncModelRuntimeClient
from serve_app.client.transports import bearer
from serve_app.config.config import RuntimeConfig, read_config

PORT = 8000
CONCURRENCY = 64
"""Of each family: as many as a replica takes of a model at once (`max_ongoing_requests`)."""
GROUP, GROUP_BYTES = 16, 2**18
"""So many lines share a request over HTTP, which costs a client 1.3 ms of CPU time: as much as a fifth of what small
models compute for a line. Larger groups leave the batches emptier while their last line is answered. With eight the
client took 0.3 ms a line, the ingress 0.4."""
WORKERS = 4
"""Of a family, at least: so many of its requests are under way."""
AHEAD, AHEAD_BYTES = 4, 2**26
"""Beyond the first line that has no answer yet, so many times `concurrency` lines are asked. A run that is killed loses
their answers."""
VARIANT_WITHIN = 256
NO_LIMITS = httpx.Limits()
"""A connection for each request that is under way: by default 100 at most."""
NDJSON = "application/x-ndjson"
TIMEOUT_S = 120.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", type=Path, help='a file with an InferRequest a line: {"Variant": {…}}')
    parser.add_argument("output", type=Path, help="takes an InferResponse a line, in the same order")
    parser.add_argument(
        "--concurrency", type=int, default=CONCURRENCY, help="requests under way at once, of each family"
    )
    parser.add_argument("--config", type=Path, help="of the actors, or of the runtime that is started without --url")
    actors = "compute with Ray Data on the cluster that runs here: so many actors, with models of their own"
    parser.add_argument("--actors", type=int, help=actors)
    connection.add_arguments(parser)
    parser.set_defaults(run=_batch, url=None)


def _batch(options: argparse.Namespace) -> int:
    import fcntl  # which only Unix has

    with options.input.open("rb") as requests, options.output.open("a+b") as answers:
        try:
            fcntl.flock(answers, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(f"{options.output}: another run writes it") from None
        total, done = sum(1 for _ in _lines(requests)), _whole_lines(answers)
        if done > total:
            raise ValueError(f"{options.output} has {done} lines, {options.input} {total}: it answers another file")
        if done:
            print(f"going on behind line {done} of {total}", file=sys.stderr)
        requests.seek(0)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
            bar = progress.add_task("answered", total=total, completed=done)
            on_answer = partial(progress.advance, bar)
            if done == total:
                errors = 0
            elif options.actors:
                errors = _computed(options, done, answers, on_answer)
            else:
                url = options.url or _local(options.config)
                lines = islice(_lines(requests), done, None)
                concurrency = max(1, options.concurrency)
                work = answer_lines(url, connection.api_key(options), lines, answers, concurrency, on_answer)
                errors = asyncio.run(work)
    print(f"{total - done} answered, {errors} of them with an error", file=sys.stderr)
    return 0


async def answer_lines(
    url: str,
    api_key: str | None,
    lines: Iterator[bytes],
    answers: BinaryIO,
    concurrency: int,
    on_answer: Callable[[], None],
) -> int:
    """Writes the answer of each line. Returns how many of them are errors. Raises Unavailable."""
    errors, size = 0, max(1, min(GROUP, concurrency // WORKERS))
    async with (
        AsyncModelRuntimeClient(url, api_key=api_key) as client,
        httpx.AsyncClient(base_url=url, headers=bearer(api_key), timeout=TIMEOUT_S, limits=NO_LIMITS) as http,
    ):

        async def alone(line: bytes) -> bytes:
            try:
                request = wire.decode(line, wire.JSON, InferRequest)
            except ServingError as failure:
                return wire.encode(Error.of(failure), wire.JSON)
            return wire.encode(await client.answer(request), wire.JSON)

        async def together(group: Sequence[bytes]) -> list[bytes]:
            replies = await _answered_together(http, group) if len(group) > 1 else []
            if len(replies) != len(group):
                return await asyncio.gather(*map(alone, group))
            return [
                await alone(line) if (error := _error_in(answer)) and error.retryable else answer
                for line, answer in zip(group, replies, strict=True)
            ]

        families = bulk.Families(together, _family, concurrency // size, size, GROUP_BYTES)
        async with aclosing(families.in_order(lines, AHEAD * concurrency, AHEAD_BYTES)) as answered:
            async for several in answered:
                for answer in several:
                    answers.write(answer + b"\n")
                    errors += _error_in(answer) is not None
                    on_answer()
                answers.flush()
    return errors


async def _answered_together(http: httpx.AsyncClient, group: Sequence[bytes]) -> list[bytes]:
    """The runtime's answers to some lines in one request. Not as many where that failed, by whatever cause."""
    try:
        body = b"\n".join(map(bytes.strip, group))
        reply = await http.post("/infer/batch", content=body, headers={"content-type": NDJSON})
    except httpx.TransportError:
        return []
    return reply.content.splitlines() if reply.status_code == 200 else []


def _error_in(answer: bytes) -> Error | None:
    if not answer.startswith(b'{"Error"'):
        return None
    error = wire.decode(answer, wire.JSON, InferResponse)
    return error if isinstance(error, Error) else None


def _family(line: bytes) -> str:
    """By its variant, which comes first. Empty for what is none."""
    variant = line[:VARIANT_WITHIN].partition(b'"')[2].partition(b'"')[0].decode("utf-8", "replace")
    return variant if variant in InferRequest.variants else ""


def _computed(options: argparse.Namespace, done: int, answers: BinaryIO, on_answer: Callable[[], None]) -> int:
    from serve_app.bulk import computed, spans_of

    errors = 0
    for answer in computed(_config(options.config), options.input, spans_of(options.input, done), options.actors):
        answers.write(answer)
        answers.flush()
        errors += _error_in(answer) is not None
        on_answer()
    return errors


def _local(config: Path | None) -> str:
    # Imported here, because Ray is.
    from serve_app.local import start_or_join

    with start_or_join(PORT, _config(config)):
        return f"http://127.0.0.1:{PORT}"


def _config(file: Path | None) -> RuntimeConfig:
    return read_config(file) if file else RuntimeConfig()


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Those with a request. Blank ones have none."""
    return (line for line in file if line.strip())


def _whole_lines(file: BinaryIO) -> int:
    """How many whole lines there are. Removes what a killed run left of one more."""
    file.seek(0)
    count = end = 0
    for line in file:
        if line.endswith(b"\n"):
            count, end = count + 1, end + len(line)
    file.truncate(end)
    return count
