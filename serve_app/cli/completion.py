"""`model-runtime completion SHELL`: a script for the shell that completes commands, options and files."""

import argparse
from functools import partial
from pathlib import Path

import shtab


def add_arguments(parser: argparse.ArgumentParser, whole: argparse.ArgumentParser) -> None:
    """`whole`: the parser whose commands are completed."""
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"), help='bash: eval "$(model-runtime completion bash)"')
    parser.set_defaults(run=partial(_print, whole))


def _print(whole: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    _complete_files(whole)
    print(shtab.complete(whole, options.shell))


def _complete_files(parser: argparse.ArgumentParser) -> None:
    """Arguments that are paths are completed as such."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _complete_files(command)
        elif action.type is Path or "--models" in action.option_strings:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
