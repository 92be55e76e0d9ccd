"""The programs of docs/calling.md."""

import re

from tests.support import PROJECT

PAGE_URL = "http://127.0.0.1:8000"
LANGUAGES = ("bash", "python", "javascript", "rust")


def programs() -> dict[str, dict[str, str]]:
    """By family and language."""
    sections = re.split(r"^## ", (PROJECT / "docs" / "calling.md").read_text("utf-8"), flags=re.MULTILINE)[1:]
    found = {
        section.partition("\n")[0]: dict(re.findall(r"^```(\w+)\n(.*?)^```", section, re.MULTILINE | re.DOTALL))
        for section in sections
    }
    return {name: programs for name, programs in found.items() if programs}
