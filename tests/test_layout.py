"""The rules of the house: which folder imports which, and how large a folder and a file may be."""

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
SOURCES = sorted(file for folder in ("serve_app", "deployments") for file in (PROJECT / folder).rglob("*.py"))
TREES = ("serve_app", "deployments", "tests", "benchmarks", "training")
MOST_MODULES = 17
MOST_LINES = 300

ARROWS: dict[str, set[str]] = {
    "serve_app.access": {"deployments.contract"},
    "serve_app.app": {
        "deployments.contract",
        "deployments.families",
        "deployments.metrics",
        "deployments.replica",
        "serve_app.config",
        "serve_app.dispatch",
        "serve_app.http",
        "serve_app.ingress",
        "serve_app.registry",
    },
    "serve_app.autoscaling": {"deployments.replica"},
    "serve_app.cli": {"deployments.contract", "serve_app.client", "serve_app.config", "serve_app.local"},
    "serve_app.client": {"deployments.contract"},
    "serve_app.config": {"deployments.contract", "serve_app.access"},
    "serve_app.dispatch": {"deployments.contract", "deployments.replica", "serve_app.access"},
    "serve_app.http": {"deployments.contract", "deployments.replica", "serve_app.access", "serve_app.config"},
    "serve_app.ingress": {
        "deployments.contract",
        "deployments.metrics",
        "deployments.replica",
        "serve_app.access",
        "serve_app.config",
        "serve_app.dispatch",
        "serve_app.http",
        "serve_app.registry",
        "serve_app.runtime",
    },
    "serve_app.local": {"deployments.contract", "serve_app.client", "serve_app.config", "serve_app.http"},
    "serve_app.registry": {"deployments.contract", "deployments.repository", "serve_app.dispatch"},
    "serve_app.runtime": {"deployments.contract", "serve_app.access", "serve_app.dispatch"},
    "deployments.contract": set(),
    "deployments.families": {"deployments.engines", "deployments.metrics", "deployments.replica"},
    "deployments.replica": {"deployments.metrics", "deployments.residency", "deployments.system"},
    "deployments.validation": {"deployments.contract", "deployments.repository", "deployments.system"},
    "deployments.residency": {"deployments.contract", "deployments.repository", "deployments.system"},
    "deployments.repository": {"deployments.contract"},
    "deployments.metrics": set(),
    "deployments.system": set(),
    "deployments.engines": {"deployments.contract", "deployments.system"},
}
"""Who imports whom, folder by folder; a module beside the folders counts as one."""

RAY = {
    "serve_app/app.py",
    "serve_app/autoscaling.py",
    "serve_app/ingress.py",
}
"""The only modules that import Ray."""


def name_of(file: Path) -> str:
    return file.relative_to(PROJECT).as_posix()


def imports(file: Path, checking: bool = False) -> Iterator[str]:
    """Every module a file imports at run time, wherever in the file; `checking`: for the type checker as well."""
    tree = ast.parse(file.read_text("utf-8"))
    if not checking:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(file)} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def folder_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def importers(package: str) -> set[str]:
    return {
        name_of(file)
        for file in SOURCES
        if any(module == package or module.startswith(package + ".") for module in imports(file))
    }


def test_folders_import_as_the_plan_says() -> None:
    seen: dict[str, set[str]] = {name: set() for name in ARROWS}
    for file in SOURCES:
        module = name_of(file).removesuffix(".py").replace("/", ".")
        if file.name == "__init__.py" and len(module.split(".")) == 2:
            continue
        here = folder_of(module)
        ours = {folder_of(name) for name in imports(file) if name.startswith(("serve_app.", "deployments."))}
        seen.setdefault(here, set()).update(ours - {here})
    assert seen == ARROWS


def test_no_folder_is_in_a_circle() -> None:
    left = dict(ARROWS)
    while left:
        free = [name for name, below in left.items() if not below & left.keys()]
        assert free, f"a circle among {sorted(left)}"
        left = {name: below for name, below in left.items() if name not in free}


def test_only_the_named_modules_import_ray() -> None:
    assert importers("ray") == RAY


def test_the_environment_is_read_nowhere() -> None:
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            read = isinstance(node, ast.Call) and ast.unparse(node.func) in ("os.getenv", "os.environ.get")
            read |= isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ"
            assert not read, f"{name_of(file)}:{node.lineno}"  # type: ignore[attr-defined]


@pytest.mark.parametrize("module", ["types", "errors", "failures", "settings", "status", "wire"])
def test_the_contract_needs_neither_torch_nor_ray(module: str) -> None:
    heavy = "{'torch', 'ray', 'transformers'}"
    check = f"import sys, deployments.contract.{module}; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check], cwd=PROJECT, check=False).returncode == 0


def test_composing_the_application_does_not_import_torch() -> None:
    check = "import sys, serve_app.app; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=PROJECT, check=False).returncode == 0


def test_a_file_fits_in_one_reading() -> None:
    python = [file for tree in TREES for file in (PROJECT / tree).rglob("*.py")]
    assert {name_of(file) for file in python if len(file.read_text("utf-8").splitlines()) > MOST_LINES} == set()


def test_a_folder_holds_few_modules() -> None:
    held: dict[str, int] = defaultdict(int)
    for tree in TREES:
        for file in (PROJECT / tree).rglob("*.py"):
            held[name_of(file.parent)] += file.name != "__init__.py"
    assert {folder: count for folder, count in held.items() if count > MOST_MODULES} == {}
