"""`model-runtime serve` with the family of a hundred requests a second."""

import sys
from typing import TYPE_CHECKING

from benchmarks.http.serve_echo import APP, EchoApp
from serve_app.cli.main import main

if TYPE_CHECKING:
    from ray.serve import Application

    from serve_app.config.config import RuntimeConfig


class PacedApp(EchoApp):
    """The same with another family."""

    @staticmethod
    def build(args: "RuntimeConfig") -> "Application":
        del sys.modules[APP]
        from benchmarks.http.paced import PACED
        from serve_app.app import compose

        return compose(args, (PACED,))


if __name__ == "__main__":
    sys.modules[APP] = PacedApp(APP)
    sys.exit(main(["serve", *sys.argv[1:]]))
