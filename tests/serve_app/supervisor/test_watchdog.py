"""The watchdog's own part; tests/serve_app/supervisor/test_supervisor.py has it between the two others."""

import subprocess
import sys

import pytest

from tests.support import PROJECT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux' kernel")

RAISES = """
import sys
from serve_app.supervisor.watchdog import Guarded

def run(link):
    print("begun")  # not flushed
    raise ValueError("wrong")

guarded = Guarded(run)
try:
    guarded.link.recv(1)
finally:
    guarded.close()
print("closed", guarded.running)
"""


def test_what_the_guarded_process_raises_ends_it_alone_and_is_printed() -> None:
    ran = subprocess.run([sys.executable, "-c", RAISES], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert ran.stdout == "begun\nclosed False\n"
    assert "ValueError: wrong" in ran.stderr
