"""`model-runtime serve` with the benchmark's family instead of the two with models."""

import sys
from types import ModuleType
from typing import TYPE_CHECKING

from serve_app.cli.main import main

if TYPE_CHECKING:
    from ray.serve import Application

    from serve_app.config.config import RuntimeConfig

APP = "serve_app.app"


class EchoApp(ModuleType):
    """Stands where the command looks for its application, because nothing may import Ray before the command has."""

    @staticmethod
    def build(args: "RuntimeConfig") -> "Application":
        del sys.modules[APP]
        from benchmarks.http.echo import ECHO
        from serve_app.app import compose

        return compose(args, (ECHO,))


if __name__ == "__main__":
    sys.modules[APP] = EchoApp(APP)
    sys.exit(main(["serve", *sys.argv[1:]]))
