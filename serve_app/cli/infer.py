"""`model-runtime infer …`: one request to a running runtime. The commands are read off the rows of the families."""

import argparse
import sys
from functools import partial
from pathlib import Path

import httpx

from deployments.contract import wire
from deployments.families.table import FAMILIES
from deployments.replica.family import Argument, Command, Family
from serve_app.cli import connection
from serve_app.client.transports import bearer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(required=True, metavar="KIND")
    for family in FAMILIES:
        if family.client is not None:
            _add_command(kinds.add_parser(family.client.name, help=family.client.help), family, family.client)
    raw = kinds.add_parser("json", help="send an InferRequest as it stands, print the InferResponse")
    raw.add_argument("request", help='{"Variant": {…}}')
    connection.add_arguments(raw)
    raw.set_defaults(run=_send_json)


def _add_command(parser: argparse.ArgumentParser, family: Family, command: Command) -> None:
    parser.add_argument("model")
    for argument in command.arguments:
        _add_argument(parser, argument)
    if command.streams:
        parser.add_argument("--stream", action="store_true", help="print the text as it comes")
    if command.output:
        parser.add_argument("--output", type=Path, metavar="FILE", help=command.output.help)
    connection.add_arguments(parser)
    parser.set_defaults(run=partial(_send, family, command))


def _add_argument(parser: argparse.ArgumentParser, argument: Argument) -> None:
    add = partial(parser.add_argument, type=argument.type, default=argument.default, help=argument.help)
    if argument.name.startswith("--"):
        add(argument.name, dest=argument.field)
    else:
        add(argument.field, metavar=argument.name)


def _send(family: Family, command: Command, options: argparse.Namespace) -> None:
    given = {argument.field: getattr(options, argument.field) for argument in command.arguments}
    fields = {field: value for field, value in given.items() if value is not None}
    stream = command.streams and options.stream
    request = family.request_for(options.model, fields | ({"stream": True} if stream else {}))
    with connection.connect(options) as client:
        if not stream:
            answer = client.infer(request)
            print(command.shown(answer))
            if command.output and options.output:
                command.output.write(request, answer, options.output)
            return
        with client.stream(request) as chunks:
            for chunk in chunks:
                print(chunk.text, end="", flush=True)
    print()


def _send_json(options: argparse.Namespace) -> int:
    try:
        reply = httpx.post(
            f"{options.url}/infer",
            content=options.request,
            headers={"content-type": wire.JSON} | bearer(connection.api_key(options)),
            timeout=120,
        )
    except httpx.TransportError as failure:
        print(f"the runtime cannot be reached: {failure}", file=sys.stderr)
        return 1
    print(reply.text)
    return 0 if reply.status_code == 200 else 1
