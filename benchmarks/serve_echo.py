"""`model-runtime serve` with the benchmark's family instead of the two with models."""

import sys

from ray.serve import Application

import serve_app.app
from benchmarks.echo import ECHO
from serve_app.cli import main
from serve_app.config import RuntimeConfig


def build(args: RuntimeConfig) -> Application:
    return serve_app.app.compose(args, (ECHO,))


if __name__ == "__main__":
    # The command looks its application up by this name.
    serve_app.app.build = build
    sys.exit(main(["serve", *sys.argv[1:]]))
