"""`model-runtime top` as a person sees it: in tmux, and its screen as a picture."""

import io
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from tests.browser.chromium import PROGRAM, Page
from tests.browser.test_home import requests_under_way
from tests.support import PROJECT
from tests.support.until import wait_until

pytestmark = [
    pytest.mark.skipif("BROWSER" not in os.environ, reason="needs a browser: make test-browser"),
    pytest.mark.skipif(PROGRAM is None, reason="needs Debian's chromium"),
    pytest.mark.skipif(shutil.which("tmux") is None, reason="needs Debian's tmux"),
]

COLUMNS, LINES = 100, 22
PAGE = """<body style="margin:0;overflow:hidden;background:#0c0c0c;color:#d0d0d0">
<pre style="margin:0;padding:16px;width:max-content;font:14px/1.25 'DejaVu Sans Mono'"><code>{code}</code></pre>"""


def tmux(*arguments: str) -> str:
    own = ["tmux", "-L", f"model-runtime-{os.getpid()}", "-f", "/dev/null"]
    return subprocess.run([*own, *arguments], capture_output=True, text=True, check=True).stdout


def drawn(screens: list[str]) -> str:
    """What is on the screen now, kept with its colours. At times it is just being drawn."""
    screens.append(tmux("capture-pane", "-e", "-p"))
    return screens[-1]


def test_top_shows_models_rates_and_latencies_while_requests_are_answered(
    page: Page, url: str, screenshots: Path, tmp_path: Path
) -> None:
    top = ["env", "-u", "COLUMNS", "-u", "LINES", sys.executable, "-m", "serve_app.cli.main", "top", "--url", url]
    tmux("new-session", "-d", "-x", str(COLUMNS), "-y", str(LINES), "-c", str(PROJECT), shlex.join(top))
    screens: list[str] = []
    try:
        with requests_under_way(url):
            wait_until(lambda: "blood_cells" in tmux("capture-pane", "-p"), "a screen", 60)
            first = tmux("capture-pane", "-p")
            wait_until(lambda: tmux("capture-pane", "-p") not in ("", first), "another one")
            wait_until(lambda: all(word in drawn(screens) for word in ("FAMILY", "ready", "tokens/s")), "a whole one")
            screen = Text.from_ansi(screens[-1])
    finally:
        tmux("kill-server")
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print(screen)
    (tmp_path / "top.html").write_text(
        console.export_html(theme=MONOKAI, inline_styles=True, code_format=PAGE), "utf-8"
    )
    width, height = 900, 17 * LINES + 60
    page.look(width, height)
    page.open(f"file://{tmp_path}/top.html")
    page.save_screenshot(screenshots / "top.png")
