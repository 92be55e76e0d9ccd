"""`model-runtime`: serves models, asks a running runtime, and looks after one. Programs use `serve_app.client`."""

import argparse
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from deployments.contract.errors import ServingError
from deployments.contract.settings import is_url, mistakes
from deployments.families.table import FAMILIES
from serve_app.access.api_keys import new_key
from serve_app.cli import batch, bench, completion, infer, models, quarantine, top
from serve_app.config.config import RuntimeConfig, read_config
from serve_app.config.reload import Reload
from serve_app.config.serve_file import read_configs

EXIT_STATUSES = "Exit status: 0; 1 for a failure, which is printed to stderr; 2 for wrong usage."


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns the exit status: 0, 1 for a failure (printed to stderr), 2 for wrong usage."""
    options = _parser().parse_args(arguments)
    try:
        status: int | None = options.run(options)
    except ServingError as failure:
        print(f"{failure.code}: {failure.message}", file=sys.stderr)
        return 1
    except ValidationError as invalid:
        print("\n".join(f"{invalid.title}.{mistake}" for mistake in mistakes(invalid)), file=sys.stderr)
        return 1
    except (ValueError, OSError) as failure:
        print(failure, file=sys.stderr)
        return 1
    return status or 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="model-runtime", description=__doc__)
    parser.add_argument("--version", action="version", version=f"model-runtime {version('model-runtime')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="start Ray and the runtime on 127.0.0.1, until Ctrl-C")
    infer.add_arguments(commands.add_parser("infer", help="send one request to a running runtime"))
    batch.add_arguments(commands.add_parser("batch", help="answer a file of requests, or its rest"))
    listing = "list the models; show, load, unload, pin, unpin, plan one"
    models.add_arguments(commands.add_parser("models", help=listing))
    refused = "list the inputs that are refused because replicas ended with them; lift one"
    quarantine.add_arguments(commands.add_parser("quarantine", help=refused))
    execute = commands.add_parser(
        "exec", help="run a command that starts Ray, such as `ray start`, on a cluster's node"
    )
    execute.add_argument("command", nargs=argparse.REMAINDER, help="the command and its arguments")
    execute.set_defaults(run=_execute)
    _add_keys(commands.add_parser("keys", help="make API keys"))
    config = commands.add_parser("config", help="check a configuration or a file for `serve deploy`; print it whole")
    bench.add_arguments(commands.add_parser("bench", help="make load on a running runtime, report rates and latencies"))
    top.add_arguments(commands.add_parser("top", help="watch a running runtime: families, models, rates, errors"))
    doctor = commands.add_parser("doctor", help="look for what is wrong: machine, configuration, models, Ray")
    doctor.add_argument("--json", action="store_true")
    for command, run in ((serve, _serve), (config, _config), (doctor, _doctor)):
        repository = "the model repository, a folder or a URL (default: models)"
        command.add_argument("--models", type=_repository, help=repository)
        command.add_argument("--config", type=Path, help="a YAML file of RuntimeConfig")
        command.set_defaults(run=run)
    checked = "a file of either kind: say what is wrong with it, with its models and places on this machine"
    config.add_argument("--check", type=Path, metavar="FILE", help=checked)
    for command in (serve, doctor):
        command.add_argument("--port", type=int, default=8000)
    completion.add_arguments(commands.add_parser("completion", help="print a script that completes commands"), parser)
    return parser


class _Parser(argparse.ArgumentParser):
    """Of every command: its help says what the exit statuses mean."""

    def __init__(self, **options: Any) -> None:
        super().__init__(epilog=EXIT_STATUSES, **options)


def _add_keys(keys: argparse.ArgumentParser) -> None:
    actions = keys.add_subparsers(required=True, metavar="ACTION")
    new = actions.add_parser("new", help="print a new key, and the lines that let the runtime know it")
    new.add_argument("name", help="whom the key is for")
    role = new.add_mutually_exclusive_group()
    role.add_argument("--administrator", action="store_true", help="may load, unload and pin models")
    role.add_argument("--metrics-only", action="store_true", help="may read /metrics and nothing else")
    new.set_defaults(run=_new_key)


def _repository(text: str) -> Path | str:
    return text if is_url(text) else Path(text)


def _configuration(options: argparse.Namespace) -> RuntimeConfig:
    return _with_models(read_config(options.config) if options.config else RuntimeConfig(), options)


def _with_models(config: RuntimeConfig, options: argparse.Namespace) -> RuntimeConfig:
    return config.model_copy(update={"models": options.models}) if options.models else config


def _serve(options: argparse.Namespace) -> int:
    if sys.platform != "linux":
        print("model-runtime serve needs Linux; a Linux container or WSL 2 should work, untested", file=sys.stderr)
        return 2
    # Imported here, because Ray is: `infer` and `models` start in a fraction of the time.
    from serve_app.local import serve_until_interrupted

    config = _configuration(options)
    reload = Reload(options.config, lambda: _configuration(options), config) if options.config else None
    return serve_until_interrupted(config, options.port, reload)


def _doctor(options: argparse.Namespace) -> int:
    from serve_app.cli.doctor import run  # which needs what only Unix has

    return run(options)


def _execute(options: argparse.Namespace) -> int:
    if options.command:
        from serve_app import node  # which needs what only Unix has

        node.execute(options.command)
    print("model-runtime exec: which command? Such as `model-runtime exec ray start --head`", file=sys.stderr)
    return 2


def _new_key(options: argparse.Namespace) -> None:
    key, sha256 = new_key()
    roles = {"administrator": options.administrator, "metrics_only": options.metrics_only}
    settings = {"sha256": sha256} | {role: True for role, given in roles.items() if given}
    print(f"# The key, which is nowhere kept:\n#   {key}\n# For the configuration:")
    print(yaml.safe_dump({"access": {"keys": {options.name: settings}}}, sort_keys=False), end="")


def _config(options: argparse.Namespace) -> int:
    if options.check:
        return _check(options.check)
    configs = read_configs(options.config) if options.config else [RuntimeConfig()]
    documents = []
    for config in configs:
        families = {family.name: config.settings(family.name) for family in FAMILIES} | dict(config.families)
        shown = _with_models(config, options).model_copy(update={"families": families})
        documents.append(yaml.safe_dump(shown.model_dump(mode="json"), sort_keys=False))
    print("---\n".join(documents), end="")
    return 0


def _check(file: Path) -> int:
    # Imported here: it reads the machine, which needs a Unix.
    from serve_app.check import mistakes_in

    mistakes = mistakes_in(file, FAMILIES)
    print("\n".join(mistakes) or f"{file.name}: no mistake found", file=sys.stderr if mistakes else sys.stdout)
    return 1 if mistakes else 0


if __name__ == "__main__":
    sys.exit(main())
