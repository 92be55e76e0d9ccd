"""The peers' own virtual environment, and what this machine is."""

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

FOLDER = Path(__file__).parent
REQUIREMENTS = FOLDER / "requirements.txt"
PEERS = FOLDER / ".venv"
PEER_BIN = PEERS / "bin"
PEER_PYTHON = PEER_BIN / "python"
OUR_BIN = Path(sys.executable).parent
SAME = ("torch", "transformers", "tokenizers", "numpy", "pillow")
"""What both environments must have in the same version."""


def setup(requirements: Path = REQUIREMENTS, place: Path = PEERS) -> None:
    """Makes the environment of some peers unless it is there and current. Raises SystemExit if that fails."""
    stamp = place / "installed.txt"
    wanted = requirements.read_text("utf-8")
    if stamp.is_file() and stamp.read_text("utf-8") == wanted:
        return
    print(f"installing the peers in {os.path.relpath(place)}; this takes some minutes …", flush=True)
    python = str(place / "bin" / "python")
    install = [python, "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off"]
    for command in (
        [sys.executable, "-m", "venv", str(place)],
        [*install, "--quiet", "-r", str(requirements)],
    ):
        if subprocess.run(command, check=False).returncode:
            raise SystemExit(f"the peers' environment could not be made: {' '.join(command)}")
    stamp.write_text(wanted, "utf-8")


def versions(peers: tuple[str, ...], place: Path = PEERS) -> dict[str, str]:
    """Name to version: ours and the peers'. Raises SystemExit where both must be the same and are not."""
    ours = {name: version(name) for name in SAME}
    theirs = versions_there((*SAME, *peers), place) if peers else ours
    for name in SAME:
        # A local label such as +cpu names the build, not the version.
        if ours[name].split("+")[0] != theirs[name].split("+")[0]:
            raise SystemExit(f"{name} is {ours[name]} here and {theirs[name]} in the peers' environment")
    known = {"model-runtime": version("model-runtime"), "ray": version("ray"), **ours}
    return known | {name: theirs[name] for name in peers} | {"python": platform.python_version()}


def versions_there(names: tuple[str, ...], place: Path = PEERS) -> dict[str, str]:
    ask = (
        "import json, sys; from importlib.metadata import version; "
        "print(json.dumps({name: version(name) for name in sys.argv[1:]}))"
    )
    told = subprocess.run([place / "bin" / "python", "-c", ask, *names], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(told.stdout)
    return found
