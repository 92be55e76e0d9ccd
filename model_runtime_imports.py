"""`serve_app` and `deployments` are ours, also where a folder of the same name comes first on `sys.path`.

Installed beside model_runtime.pth, which has each Python import this module at its start, also those that Ray starts,
before any of them looks for the packages. A job's own `deployments/` stays importable beside ours: its `__init__.py` is
run, and `deployments.its_module` is found unless ours has a module of that name.
"""

import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

NAMES = ("serve_app", "deployments")
HERE = Path(__file__).resolve().parent


class BesideOthers(MetaPathFinder):
    """Finds a package as Python does, and has its modules looked for in our folder first."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in NAMES:
            return None
        ours = str(HERE / name)
        spec = PathFinder.find_spec(name, sys.path) or PathFinder.find_spec(name, [str(HERE)])
        if spec is not None:
            folders = [os.path.realpath(os.path.join(place, name)) for place in sys.path]
            spec.submodule_search_locations = list(dict.fromkeys([ours, *filter(os.path.isdir, folders)]))
        return spec


if not any(isinstance(finder, BesideOthers) for finder in sys.meta_path):
    sys.meta_path.insert(0, BesideOthers())
