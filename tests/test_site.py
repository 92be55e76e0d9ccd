"""`make docs`: the pages are a site that needs no network, and every link in it leads somewhere."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.contract.errors import ERRORS
from tests.support import PROJECT

LOADED = re.compile(r"<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)=\"?([^\"\s>]+)")


def built(config: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    command: list[str | Path] = [sys.executable, "-m", "mkdocs", "build", "-f", config, "-d", folder]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_site_holds_every_page_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    """Strict: a page that the sections lack, or a link or an anchor that leads nowhere, is an error."""
    site = tmp_path / "site"
    ran = built(PROJECT / "mkdocs.yml", site)
    assert ran.returncode == 0, ran.stderr
    pages = {page.name for page in site.glob("*.html")}
    assert pages >= {f"{page.stem}.html" for page in (PROJECT / "docs").glob("*.md")}
    for page in site.rglob("*.html"):
        text = page.read_text("utf-8")
        assert [url for url in LOADED.findall(text) if re.match(r"(\w+:)?//", url)] == []
        assert not re.search(r">[\w-]+\.md</a>", text), f"{page.name} has a file's name for a link"
    assert 'href="calling.html"' in (site / "index.html").read_text("utf-8")
    assert (site / "search" / "search_index.js").stat().st_size > 100_000
    languages = re.findall(r"<label for=\"__tabbed_1_\d\">(.*?)</label>", (site / "calling.html").read_text("utf-8"))
    assert languages == ["curl", "Python", "JavaScript", "Rust"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("added", "complaint"),
    [("[there](no-such-page.md)", "no-such-page.md"), ("[there](guard.md#no-such-part)", "no-such-part")],
)
def test_a_link_that_leads_nowhere_ends_the_build(added: str, complaint: str, tmp_path: Path) -> None:
    shutil.copytree(PROJECT / "docs", tmp_path / "docs")
    for name in ("README.md", "mkdocs.yml", "CONTRIBUTING.md", "examples", "models", "notebooks", "training"):
        (tmp_path / name).symlink_to(PROJECT / name)
    with (tmp_path / "docs" / "tuning.md").open("a") as page:
        page.write(f"\n{added}\n")
    ran = built(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert ran.returncode != 0
    assert complaint in ran.stderr


def codes_in(page: str, pattern: str) -> set[str]:
    return set(re.findall(pattern, (PROJECT / "docs" / page).read_text("utf-8"), re.MULTILINE))


def test_each_code_has_an_entry_among_the_troubles() -> None:
    assert codes_in("troubleshooting.md", r"^### `(\w+)`$") == ERRORS.keys()


def test_an_entry_begins_with_its_status() -> None:
    text = (PROJECT / "docs" / "troubleshooting.md").read_text("utf-8")
    said = dict(re.findall(r"^### `(\w+)`\n\n(\d+)[.,]", text, re.MULTILINE))
    assert said == {code: str(error.status) for code, error in ERRORS.items()}
