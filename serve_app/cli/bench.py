"""`model-runtime bench URL`: makes load on a running runtime and reports what comes back."""

import argparse
import asyncio
import datetime
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from deployments.contract.status import ModelStatus
from deployments.families.table import FAMILIES
from serve_app.bench.connections import Connections, Sent
from serve_app.bench.loops import Span, closed_loop, open_loop
from serve_app.bench.machine import machine
from serve_app.bench.report import SLO_NAMES, Report, plot, summary
from serve_app.bench.workload import of_file, of_models, of_trace, poisson, read_trace, text_model
from serve_app.cli import connection
from serve_app.client.client import ModelRuntimeClient
from serve_app.client.transports import bearer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", metavar="URL")
    what = "ID or ID=WEIGHT: ask it with its family's sample, so often for each of weight 1 (default: every model)"
    parser.add_argument("--model", action="append", default=[], type=_weighted, metavar="MODEL", help=what)
    parser.add_argument("--requests", type=Path, help="JSON lines, each an InferRequest, in place of samples")
    parser.add_argument("--trace", type=Path, help="a CSV file of TIMESTAMP, ContextTokens, GeneratedTokens to replay")
    parser.add_argument("--speed", type=_positive, default=1.0, help="of the trace (default: 1)")
    pace = parser.add_mutually_exclusive_group()
    pace.add_argument("--connections", type=int, default=8, help="clients that ask one after the other (default: 8)")
    pace.add_argument("--rate", type=_positive, help="requests a second, sent whether others are answered or not")
    parser.add_argument("--seconds", type=_positive, default=30.0, help="that count (default: 30)")
    parser.add_argument("--warm-up", type=float, default=5.0, help="seconds before them (default: 5)")
    slo = "such as latency=1,ttft=0.2,tpot=0.05, in seconds: requests that keep it are the goodput"
    parser.add_argument("--slo", type=_objective, default={}, help=slo)
    parser.add_argument("--seed", type=int, default=0)
    saved = "the report as JSON, and where there is matplotlib a picture beside it"
    parser.add_argument("--save", type=Path, metavar="FILE", help=saved)
    parser.add_argument("--key-file", type=Path, help="a file that holds the API key")
    parser.set_defaults(run=run)


def _weighted(text: str) -> tuple[str, int]:
    model_id, _, weight = text.partition("=")
    return model_id, int(weight or 1)


def _positive(text: str) -> float:
    if (number := float(text)) <= 0:
        raise ValueError
    return number


def _objective(text: str) -> dict[str, float]:
    pairs = (part.partition("=") for part in text.split(","))
    limits = {name: float(limit) for name, _, limit in pairs}
    if unknown := limits.keys() - set(SLO_NAMES):
        raise argparse.ArgumentTypeError(f"{min(unknown)} is none of {', '.join(SLO_NAMES)}")
    return limits


def run(options: argparse.Namespace) -> int:
    """Returns 1 where no request was answered."""
    key = connection.api_key(options)
    with ModelRuntimeClient(options.url, api_key=key) as client:
        statuses = client.models()
    begin, spans = asyncio.run(_measured(options, statuses, bearer(key)))
    report = report_of(spans, begin, options)
    print(report.as_lines(), end="")
    if options.save:
        options.save.write_text(report.as_json(), "utf-8")
        picture = options.save.with_suffix(".png")
        drawn = plot(report, picture)
        print(f"{options.save}{f', {picture}' if drawn else '; no picture: pip install matplotlib'}")
    return 0 if any(not span.error for span in spans) else 1


async def _measured(
    options: argparse.Namespace, statuses: Sequence[ModelStatus], headers: Mapping[str, str]
) -> tuple[float, list[Span]]:
    """When what counts begins, on the loop's clock, and every request."""
    connections = Connections(options.url, headers)
    try:
        return await load(connections, options, statuses)
    finally:
        await connections.close()


async def load(
    connections: Connections, options: argparse.Namespace, statuses: Sequence[ModelStatus]
) -> tuple[float, list[Span]]:
    weights, whole_s = dict(options.model), options.warm_up + options.seconds
    start = asyncio.get_running_loop().time()
    if options.trace:
        model = text_model(weights, statuses)
        arrivals = of_trace(read_trace(options.trace), model.model_id, model.context, options.speed, whole_s)
        return start + options.warm_up, await open_loop(connections.ask, arrivals, start, _name_of)
    works: Iterator[Sent] = (
        of_file(options.requests) if options.requests else of_models(weights, statuses, FAMILIES, options.seed)
    )
    if options.rate:
        arrivals = poisson(works, options.rate, whole_s, options.seed)
        return start + options.warm_up, await open_loop(connections.ask, arrivals, start, _name_of)
    spans = await closed_loop(connections.ask, works, options.connections, start + whole_s, _name_of)
    return start + options.warm_up, spans


def _name_of(sent: Sent) -> str:
    return sent.name


def report_of(spans: Sequence[Span], begin: float, options: argparse.Namespace) -> Report:
    end = begin + options.seconds
    names = sorted({span.name for span in spans})
    return Report(
        command=shlex.join(["model-runtime", *sys.argv[1:]]),
        machine=machine(),
        date=datetime.date.today().isoformat(),
        url=options.url,
        counted_s=options.seconds,
        objective=options.slo,
        whole=summary(spans, begin, end, options.slo),
        models={
            name: summary([span for span in spans if span.name == name], begin, end, options.slo) for name in names
        },
        spans=spans,
    )
