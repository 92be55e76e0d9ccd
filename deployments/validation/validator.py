"""Decides whether a model's folder may be loaded: its files, then what they make the libraries do.

A verdict holds for one content of a folder. It is kept on disk, with the other facts of that content.
"""

import errno
import os
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path

from deployments.contract.errors import ModelLoadFailed
from deployments.repository.adapters import WEIGHTS, join
from deployments.repository.folder import check_files, digest_of
from deployments.repository.manifest import SourceFile, Unservable
from deployments.repository.model import Model
from deployments.repository.staging import staged, verify
from deployments.system.artifact_cache import ArtifactCache, digest_key, private_folder
from deployments.validation.sandbox import Sandbox
from deployments.validation.verdicts import FolderFacts

FAULT = "fault"
"""What is wrong with a folder; an empty text where nothing is."""
RULES = 4
"""To be raised with any change of what is refused: verdicts on disk are of the rules that they were found by."""
_JUDGES = [version(name) for name in ("tokenizers", "jinja2", "model-runtime")]
FACTS_BYTES = 4 * 2**20
"""Of all folders: about 500 bytes each."""


class ModelValidator:
    """For any thread."""

    def __init__(
        self, root: Path | str, cache: Path, sandbox: Sandbox | None = None, link_targets: Iterable[Path] = ()
    ) -> None:
        """`cache`: for facts and staged models. `link_targets`: folders beside the root that links may lead to.

        Raises PermissionError where others may write to the cache.
        """
        self.root = root
        self._link_targets = tuple(target.resolve() for target in link_targets)
        self._fault = f"{FAULT} {RULES} {' '.join(map(str, self._link_targets))}"
        self._facts = ArtifactCache(cache / "facts", FACTS_BYTES)
        self._staged = private_folder(cache / "staged")
        self._joined = private_folder(cache / "joined")
        self._sandbox = sandbox or Sandbox()

    def validate(self, model: Model) -> Path:
        """The folder to load the model from, staged if need be.

        Raises ModelLoadFailed with one line that names no path, retryable where a disk is at fault. Raises Unavailable
        where a source cannot be reached.
        """
        try:
            folder, fault = self._checked(model)
            if fault is None and model.base is not None:
                base, fault = self._checked(model.base)
                folder = folder if fault else join(folder, base, self._joined / digest_key(model.key))
            if fault is None and model.draft is not None:
                _, fault = self._checked(model.draft)
                fault = fault and f"its draft model {model.draft.name}: {fault}"
        except Unservable as unservable:
            fault = str(unservable)
        except OSError as failure:  # It may pass: a share that is away for a while, or a cache that is full.
            raise ModelLoadFailed.for_now(_disk_failure(failure)) from failure
        if fault is not None:
            raise ModelLoadFailed(fault)
        return folder

    def facts_of(self, folder: Path) -> FolderFacts:
        """What is known of the folder's present content."""
        return FolderFacts(self._facts, _fingerprint(folder))

    def _checked(self, model: Model) -> tuple[Path, str | None]:
        """The folder of its own files, staged if need be, and what is wrong with it. Raises Unservable, ServingError,
        OSError."""
        manifest, is_adapter = model.manifest, model.adapter_of is not None
        if manifest.source is None:
            root = model.root or Path(self.root)  # The runtime's models may lie elsewhere since it was found.
            return model.folder, self._verdict(model.folder, root, manifest.files, is_adapter)
        digest = model.own_digest if is_adapter else model.digest
        folder = staged(manifest.source, digest, manifest.files, self._staged)
        return folder, self._verdict(folder, folder, {}, is_adapter)

    def _verdict(
        self, folder: Path, root: Path, files: Mapping[str, SourceFile], is_adapter: bool = False
    ) -> str | None:
        """What is wrong with the folder; None: nothing."""
        facts = self.facts_of(folder)
        if (known := facts.recall(self._fault)) is not None:
            return known or None
        try:
            adapter_weights = WEIGHTS if is_adapter else None
            check_files(folder, root.resolve(), *self._link_targets, adapter_weights=adapter_weights)
            verify(folder, files)
            fault = self._sandbox.inspect(folder)
        except Unservable as unservable:
            fault = str(unservable)
        # Where the folder changed meanwhile, it is not known which content was judged.
        if facts.key == _fingerprint(folder):
            facts.remember(self._fault, fault or "")
        return fault


def _disk_failure(failure: OSError) -> str:
    if failure.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG):
        return f"the cache cannot be written to ({os.strerror(failure.errno)})"
    return f"its folder cannot be read ({type(failure).__name__})"


def _fingerprint(folder: Path) -> str:
    """A key of the folder as it is and of the versions that judge it."""
    return digest_key(str(folder.resolve()), folder.stat().st_ino, digest_of(folder), _JUDGES)
