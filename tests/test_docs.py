"""README, CONTRIBUTING and docs/ name files, headings, commands and code that exist."""

import ast
import fnmatch
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support import PROJECT

PAGES = sorted([PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *(PROJECT / "docs").glob("*.md")])
EXAMPLES = {"stories.py"}
"""Files that pages name as the reader's own."""

FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
PATH = re.compile(r"(?<![\w/.~-])((?:serve_app|deployments|tests|benchmarks|training|notebooks|docs)/[\w./*-]*)")
MODULE = re.compile(r"python -m (benchmarks[\w.]*)((?: [a-z]\w*)*)")
NAMED = re.compile(r"`([\w/]+\.py)`((?:,? `[\w.]+`)+)")
STATION = re.compile(r"(\d+)\. `([\w/]+\.py)` [^`]*(?:`[^`]+`[^`]*)* \(([\w., ]+)\)")


def pages() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def code_in(text: str) -> Iterator[str]:
    """Code blocks, and code within lines."""
    yield from FENCE.findall(text)
    yield from SPAN.findall(FENCE.sub("", text))


@cache
def tracked() -> frozenset[str]:
    """Every file of the project, and every folder with one, as a path below it."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    files = {name for name in listed.stdout.splitlines() if (PROJECT / name).exists()}
    return frozenset(files | {str(folder) for name in files for folder in Path(name).parents})


def exists(path: str) -> bool:
    """Whether a file or folder has this path, in which `*` stands for any characters."""
    return bool(fnmatch.filter(tracked(), path.rstrip("/")))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+?) *$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@cache
def names_in(file: str) -> frozenset[str]:
    """Functions, classes, their methods and the variables of a module: `name`, and `Class.name`."""

    def names(body: list[ast.stmt], prefix: str = "") -> Iterator[str]:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield prefix + node.name
            if isinstance(node, ast.ClassDef):
                yield from names(node.body, f"{prefix}{node.name}.")
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            yield from (prefix + target.id for target in targets if isinstance(target, ast.Name))

    return frozenset(names(ast.parse((PROJECT / file).read_text("utf-8")).body))


@pages()
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for link in LINK.findall(FENCE.sub("", page.read_text("utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(file), f"{page.name} links to {link}"


@pages()
def test_paths_exist(page: Path) -> None:
    for path in PATH.findall(page.read_text("utf-8")):
        assert exists(path.rstrip(".")), f"{page.name} names {path}"


@pages()
def test_modules_that_are_named_by_their_ends_exist(page: Path) -> None:
    for code in SPAN.findall(FENCE.sub("", page.read_text("utf-8"))):
        if re.fullmatch(r"[\w*/]+\.py", code) and code not in EXAMPLES:
            assert exists(code) or exists(f"*/{code}"), f"{page.name} names {code}"


@pages()
def test_targets_of_make_exist(page: Path) -> None:
    targets = re.findall(r"^([a-z][\w%-]*):", (PROJECT / "Makefile").read_text("utf-8"), re.MULTILINE)
    for code in code_in(page.read_text("utf-8")):
        for named in re.findall(r"\bmake ([a-z][a-z-]*[a-z])", code):
            assert any(fnmatch.fnmatch(named, target.replace("%", "*")) for target in targets), f"make {named}"


@pages()
def test_benchmarks_and_their_arguments_exist(page: Path) -> None:
    code = "\n".join(code_in(page.read_text("utf-8")))
    suites = [("benchmarks", f" {suite}") for suite in re.findall(r"\bmake bench-(\w+)", code)]
    for module, arguments in [*MODULE.findall(code), *suites]:
        path = module.replace(".", "/")
        file = next((name for name in (f"{path}.py", f"{path}/__main__.py") if exists(name)), None)
        assert file, f"{page.name} runs {module}"
        tree = ast.parse((PROJECT / file).read_text("utf-8"))
        literals = {
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        assert set(arguments.split()) <= literals, f"{page.name} runs {module}{arguments}"


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def test_the_index_names_code_that_exists() -> None:
    named = NAMED.findall((PROJECT / "docs" / "index.md").read_text("utf-8"))
    assert len(named) > 20
    for file, names in named:
        assert set(SPAN.findall(names)) <= names_in(file), f"{file} has no {names}"


@cache
def names_in_all() -> frozenset[str]:
    modules = (name for name in tracked() if re.match(r"(serve_app|deployments|benchmarks)/.*\.py", name))
    return frozenset(name for module in modules for name in names_in(module))


@pages()
def test_methods_that_are_named_exist(page: Path) -> None:
    for code in SPAN.findall(FENCE.sub("", page.read_text("utf-8"))):
        if re.fullmatch(r"[A-Z]\w+\.[a-z_]\w*", code) and code not in EXAMPLES:
            assert code in names_in_all(), f"{page.name} names {code}"


def test_the_index_links_to_every_page() -> None:
    text = (PROJECT / "docs" / "index.md").read_text("utf-8")
    assert {page.name for page in (PROJECT / "docs").glob("*.md")} - {"index.md"} <= set(LINK.findall(text))


def test_the_stations_of_a_request_name_code_that_exists() -> None:
    text = (PROJECT / "docs" / "a-request.md").read_text("utf-8")
    lines = [line for line in text.splitlines() if re.match(r"\d+\.", line)]
    stations = [STATION.fullmatch(line) for line in lines]
    assert all(stations), [line for line, station in zip(lines, stations, strict=True) if station is None]
    found = [station.groups() for station in stations if station is not None]
    assert [int(number) for number, _, _ in found] == list(range(1, len(found) + 1))
    for _, file, names in found:
        assert set(names.split(", ")) <= names_in(file), f"{file} has no {names}"


def test_pages_that_the_code_names_exist() -> None:
    for name in tracked():
        if name.endswith((".py", ".yaml", ".toml")):
            for page in re.findall(r"\bdocs/[\w-]+\.md", (PROJECT / name).read_text("utf-8")):
                assert exists(page), f"{name} names {page}"
