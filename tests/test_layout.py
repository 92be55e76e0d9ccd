"""The rules of the house: imports point down, and a file fits in one reading."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
SOURCES = sorted(file for folder in ("serve_app", "deployments") for file in (PROJECT / folder).rglob("*.py"))
RAY_MAY = {
    "serve_app/app.py",
    "serve_app/administration.py",
    "serve_app/catalog.py",
    "serve_app/model_board.py",
    "serve_app/replicas.py",
    "serve_app/ingress.py",
    "serve_app/autoscaling.py",
    "serve_app/dispatch.py",
    "serve_app/lane.py",
    "serve_app/lines.py",
    "serve_app/client.py",
    "serve_app/cli.py",
    "serve_app/local.py",
    "deployments/metrics.py",
    "deployments/gpus.py",
    "deployments/place.py",
    "deployments/image_classification.py",
    "deployments/text_generation.py",
    "deployments/text_measures.py",
}
PURE = (
    "deployments.protocol",
    "deployments.errors",
    "deployments.failures",
    "deployments.settings",
    "deployments.wire",
)


def name_of(file: Path) -> str:
    return file.relative_to(PROJECT).as_posix()


def imports(file: Path) -> Iterator[str]:
    """Every module a file imports at run time, wherever in the file."""
    tree = ast.parse(file.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(file)} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def importers(package: str) -> set[str]:
    return {
        name_of(file)
        for file in SOURCES
        if any(module == package or module.startswith(package + ".") for module in imports(file))
    }


def test_imports_point_down() -> None:
    assert {name for name in importers("serve_app") if name.startswith("deployments/")} == set()
    engines = {name for name in importers("deployments") if name.startswith("deployments/engines/")}
    allowed = ("deployments.engines", "deployments.errors", "deployments.protocol")
    for name in engines:
        ours = [module for module in imports(PROJECT / name) if module.startswith(("deployments.", "serve_app."))]
        assert [module for module in ours if not module.startswith(allowed)] == [], name


def test_only_the_named_modules_import_ray() -> None:
    assert importers("ray") <= RAY_MAY


def test_only_engines_import_torch_and_transformers() -> None:
    for package in ("torch", "transformers"):
        assert {name for name in importers(package) if not name.startswith("deployments/engines/")} == set()


def test_the_environment_is_read_nowhere() -> None:
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            read = isinstance(node, ast.Call) and ast.unparse(node.func) in ("os.getenv", "os.environ.get")
            read |= isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ"
            assert not read, f"{name_of(file)}:{node.lineno}"  # type: ignore[attr-defined]


@pytest.mark.parametrize("module", PURE)
def test_the_contract_needs_neither_torch_nor_ray(module: str) -> None:
    check = f"import sys, {module}; sys.exit(bool({{'torch', 'ray', 'transformers'}} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", check], cwd=PROJECT, check=False).returncode == 0


def test_composing_the_application_does_not_import_torch() -> None:
    check = "import sys, serve_app.app; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=PROJECT, check=False).returncode == 0


def test_a_file_fits_in_one_reading() -> None:
    python = [*SOURCES, *(PROJECT / "tests").rglob("*.py"), *(PROJECT / "training").rglob("*.py")]
    assert {name_of(file) for file in python if len(file.read_text("utf-8").splitlines()) > 300} == set()
