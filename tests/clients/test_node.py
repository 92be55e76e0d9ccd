"""openai-node and the AI SDK, in clients.test.mjs."""

import os
import subprocess
from pathlib import Path

HERE = Path(__file__).parent / "node"


def test_they_do_what_they_do_with_openai(url):
    command = ["node", "--test", "clients.test.mjs"]
    ran = subprocess.run(command, cwd=HERE, env=os.environ | {"BASE_URL": url}, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout
