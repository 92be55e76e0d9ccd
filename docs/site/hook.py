"""MkDocs' hook. Pages are written to be read where they lie; what differs in the site is changed here.

README is the first page, docs/index.md is "the code", and what pages link to beside docs/ is in the site, too.
"""

import posixpath
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PROJECT = Path(__file__).parents[2]
LINK = re.compile(r"\[([^\]]*)\]\((?!\w+:|#)([^)#\s]+)")
FENCE = re.compile(r"^```(\w*)\n.*?^```\n", re.MULTILINE | re.DOTALL)
TABS = {"bash": "curl", "python": "Python", "javascript": "JavaScript", "rust": "Rust"}
PLACES = {"README.md": "README.md", "docs/index.md": "the-code.md"}


def place(path: str) -> str:
    """Where a file of the project is in the site."""
    return PLACES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else f"project/{path}")


def resolved(page: str, target: str) -> str:
    """What a page links to, as a path below the project."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), target))


def linked(page: str) -> Iterator[str]:
    """The files that a page links to."""
    files = (resolved(page, target) for _, target in LINK.findall((PROJECT / page).read_text("utf-8")))
    return (file for file in files if (PROJECT / file).is_file())


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds what is reached from README and from docs/ by links."""
    if index := files.get_file_from_path("index.md"):
        files.remove(index)
    waiting = ["README.md", "docs/index.md", *(f"docs/{page.src_uri}" for page in files.documentation_pages())]
    seen: set[str] = set()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        if files.get_file_from_path(place(path)) is None:
            files.append(File.generated(config, place(path), abs_src_path=str(PROJECT / path)))
        if path.endswith(".md"):
            waiting += linked(path)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links lead to the places in the site, and have the page's title where their text is its file's name."""
    here = Path(page.file.abs_src_path or "").relative_to(PROJECT).as_posix()

    def moved(link: re.Match[str]) -> str:
        text, file = link[1], resolved(here, link[2])
        if not (PROJECT / file).is_file():
            return link[0]
        if text.endswith(".md"):
            text = title(file)
        return f"[{text}]({posixpath.relpath(place(file), posixpath.dirname(page.file.src_uri) or '.')}"

    return tabbed(LINK.sub(moved, markdown))


def title(page: str) -> str:
    return (PROJECT / page).read_text("utf-8").partition("\n")[0].removeprefix("# ")


def tabbed(markdown: str) -> str:
    """Blocks of code in several languages that nothing but an empty line parts, as content tabs."""

    def tabs(group: re.Match[str]) -> str:
        blocks = [block for block in FENCE.finditer(group[0]) if block[1] in TABS]
        if len(blocks) < 2:
            return group[0]
        return "".join(f'=== "{TABS[block[1]]}"\n\n{textwrap.indent(block[0], "    ")}\n' for block in blocks)

    return re.sub(rf"(?:{FENCE.pattern}\n?)+", tabs, markdown, flags=FENCE.flags)
