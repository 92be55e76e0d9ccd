"""The converted models in a cache on disk: by the content of the folder, the versions of libraries and our own code."""

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from deployments.engines.probes import code_digest
from deployments.engines.text.openvino.compiled import ABOUT, About, compile_model
from deployments.system.artifact_cache import ArtifactCache, digest_key, sha256_by_name
from deployments.system.worker_process import WorkerProcess

CONVERTER = "deployments.engines.text.openvino.convert_worker"
"""Not imported here: what it imports is not for its parent."""
CONVERT_S = 1_800.0
MAKERS = ("openvino", "torch", "transformers")
READ = ("*.json", "*.safetensors")

log = logging.getLogger(__name__)


class NotConvertible(Exception):
    """The converted model does not match the plain one."""


class Converted(NamedTuple):
    """A compiled model, and what is to know of it."""

    compiled: Any
    about: About


def key_of(folder: Path, dtype: str | None) -> str:
    """Reads the weights."""
    files = sha256_by_name(file for pattern in READ for file in folder.glob(pattern))
    makers = [code_digest(Path(__file__).parents[1]), *map(version, MAKERS)]
    return digest_key(files, dtype, makers)


def read_or_make(
    folder: Path, dtype: str | None, threads: int, cache: ArtifactCache, key: str | None = None
) -> Converted:
    """Converts what is not in the cache, in a child process. Raises NotConvertible, RequestFailed where the conversion
    raised, WorkerFailed where the child did not end by itself, OSError where the cache cannot be written. `key`: where
    it is known."""
    key = key or key_of(folder, dtype)
    place = cache.find(key)
    if place is None:
        with cache.draft(key) as draft, converter() as worker:
            if not worker.ask([str(folder.absolute()), dtype, str(draft)], CONVERT_S):
                raise NotConvertible("its logits are not those of the plain forward")
        place = cache.root / key
    about = About(**dict(zip(About._fields, json.loads((place / ABOUT).read_bytes()), strict=True)))
    return Converted(compile_model(place, about, threads), about)


_lock = threading.Lock()
_users = 0
_worker: WorkerProcess | None = None


@contextmanager
def converter() -> Iterator[WorkerProcess]:
    """The child of this process, for one load after the other. It ends when none needs it."""
    global _users, _worker
    with _lock:
        _users += 1
        worker = _worker = _worker or WorkerProcess(CONVERTER)
    try:
        yield worker
    finally:
        with _lock:
            _users -= 1
            if not _users:
                worker.close()
                _worker = None
