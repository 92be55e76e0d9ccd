"""`model-runtime quarantine …`: lists the inputs that are refused, or has one answered again. Prints lines, or JSON."""

import argparse
import json
import sys
import time
from dataclasses import asdict

from deployments.contract.status import QuarantinedInput
from serve_app.cli import connection
from serve_app.cli.models import table

_HEAD = ("digest", "model", "family", "deaths", "ends in", "last request")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("verb", nargs="?", choices=("lift",), help="have one answered again; none lists them all")
    parser.add_argument("digest", nargs="?", help="as the list has it")
    parser.add_argument("--json", action="store_true")
    connection.add_arguments(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int | None:
    """Returns 2 where `lift` has no digest."""
    if (options.verb is None) != (options.digest is None):
        print("usage: model-runtime quarantine [lift DIGEST]", file=sys.stderr)
        return 2
    with connection.connect(options) as client:
        inputs = [client.lift(options.digest)] if options.verb else client.quarantine()
    if options.json:
        shown = [asdict(one) for one in inputs]
        print(json.dumps(shown[0] if options.verb else {"inputs": shown}, indent=2))
    elif options.verb:
        print(f"{inputs[0].digest} of {inputs[0].model} is answered again")
    else:
        print(table([_HEAD, *(_row(one, time.time()) for one in inputs)]) if inputs else "no input is refused")
    return None


def _row(one: QuarantinedInput, now: float) -> tuple[str, ...]:
    minutes = max(one.until - now, 0) / 60
    return one.digest, one.model, one.family, str(one.deaths), f"{minutes:.0f} min", one.request_id
