"""What stands between a model's folder and its loading: the checks, the inspection, and the memory of their verdicts.

A verdict holds for a folder's content: it is remembered on disk under what the folder looked like when it was judged,
and so is what the engines find out about it.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from select import select

from deployments.contract.errors import ModelLoadFailed
from deployments.repository.folder import check_files, digest_of
from deployments.repository.manifest import SourceFile, Unservable
from deployments.repository.model import Model
from deployments.repository.staging import staged, verify
from deployments.validation.verdicts import FolderFacts, private_folder

INSPECTION = "deployments.validation.sandbox_worker"  # a process of its own: this one does not import it
FAULT = "fault"
"""What is wrong with a folder; an empty text where nothing is."""
_WORTH_IT = (
    "tokenizer.json",
    "tokenizer_config.json",
    "processor_config.json",
    "chat_template.json",
    "chat_template.jinja",
    "additional_chat_templates",
)
PATIENCE_S = 60.0
"""On a machine so busy that a few seconds of computing take this long."""


class ModelValidator:
    """Lets through the folders that may be loaded. For any thread; one inspection at a time."""

    def __init__(self, root: Path | str, cache: Path) -> None:
        self.root = root
        self.facts = private_folder(cache / "facts")
        self.stagings = private_folder(cache / "staged")
        self._inspector = Sandbox()
        self._lock = threading.Lock()

    def validate(self, model: Model) -> Path:
        """The folder to load the model from, staged if need be.

        Raises ModelLoadFailed with one line that names no path, Unavailable where a source cannot be reached.
        """
        manifest = model.manifest
        try:
            if manifest.source is not None:
                folder = root = staged(manifest.source, model.digest, manifest.files, self.stagings)
                fault = self._judged(folder, root, {})
            else:
                folder, root = model.folder, Path(self.root)
                fault = self._judged(folder, root, manifest.files)
        except Unservable as unservable:
            fault = str(unservable)
        except OSError as failure:
            fault = f"its folder cannot be read ({type(failure).__name__})"
        if fault is not None:
            raise ModelLoadFailed(fault)
        return folder

    def facts_of(self, folder: Path) -> FolderFacts:
        """What is remembered of the folder as it is now."""
        return FolderFacts(self.facts / f"{_fingerprint(folder)}.json")

    def _judged(self, folder: Path, root: Path, files: Mapping[str, SourceFile]) -> str | None:
        facts = self.facts_of(folder)
        if (verdict := facts.recall(FAULT)) is not None:
            return verdict or None
        try:
            check_files(folder, root.resolve())
            verify(folder, files)
            with self._lock:
                fault = self._inspector.inspect(folder)
        except Unservable as unservable:
            fault = str(unservable)
        # Not where it was changed meanwhile: what was judged is what is remembered.
        if facts.place == self.facts_of(folder).place:
            facts.remember(FAULT, fault or "")
        return fault


def _fingerprint(folder: Path) -> str:
    """Of the folder as it is, and of what judges it."""
    seen = json.dumps([str(folder.resolve()), folder.stat().st_ino, digest_of(folder), _judges()])
    return hashlib.sha256(seen.encode()).hexdigest()[:32]


@cache
def _judges() -> list[str]:
    return [version("tokenizers"), version("jinja2"), version("model-runtime")]


class Sandbox:
    """The inspecting process, kept warm. It is ended by what it inspects, if need be, and started again."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def inspect(self, folder: Path) -> str | None:
        """What is wrong with the folder, in one line. Raises Unservable where it could not be found out."""
        if not any((folder / name).exists() for name in _WORTH_IT):
            return None
        process = self._process = self._process or _start()
        assert process.stdin is not None
        assert process.stdout is not None
        trying = "the folder"
        try:
            process.stdin.write(os.fsencode(str(folder.resolve()) + "\n"))
            process.stdin.flush()
            # Unbuffered, so that what select says holds for readline too.
            while select([process.stdout], [], [], PATIENCE_S)[0] and (line := process.stdout.readline()):
                said = json.loads(line)
                if "fault" in said:
                    fault: str | None = said["fault"]
                    return fault
                trying = said["trying"]
        except BrokenPipeError:
            pass
        self.close()
        if process.returncode == -signal.SIGPROF:
            raise Unservable(f"{trying} takes too long to try")
        raise Unservable(f"{trying} takes too much time or memory to try")

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        if (process := self._process) is not None:
            self._process = None
            if process.poll() is None:
                process.kill()
            process.communicate()


def _start() -> subprocess.Popen[bytes]:
    # A group of its own: a Ctrl-C is not for it.
    return subprocess.Popen(
        [sys.executable, "-m", INSPECTION],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        start_new_session=True,
    )
