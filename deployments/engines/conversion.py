"""Converts a model for OpenVINO in the background, while PyTorch answers. The converted one takes its place where the
engine finds that it gives the same answers, sooner."""

import inspect
import json
import logging
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from deployments.engines.conversion_worker import convert_in_child
from deployments.engines.measuring import fastest_of
from deployments.system.artifact_cache import ArtifactCache, digest_key, sha256_by_name
from deployments.system.worker_process import WorkerFailed

logger = logging.getLogger(__name__)

WORTH_IT = 1.05
"""It must be so many times as fast."""
NO_FASTER = "converted it is no faster"
"""The one reason that is not kept: other processes may have computed meanwhile."""
_MAKERS = ("openvino", "torch", "transformers", "model-runtime")
_one_at_a_time = threading.Lock()

Converted = TypeVar("Converted")
Converted_contra = TypeVar("Converted_contra", contravariant=True)


class Convertible(Protocol[Converted_contra]):
    """What of an engine the conversion takes."""

    settled: threading.Event
    """Set while nothing is being converted that may take the model's place."""

    def fault(self, converted: Converted_contra) -> str | None:
        """Why it is not to be used; None: it gives the same answers, and sooner."""

    def use(self, converted: Converted_contra | None, note: str) -> None:
        """From now on this one, or with None the same as before, for the reason in `note`."""


@dataclass(frozen=True, slots=True)
class Conversion(Generic[Converted]):
    """How a folder is converted: `convert`, a function of a module, is called in a child process with the folder,
    `details` as JSON has them, and the place where it writes what `read` reads."""

    cache: ArtifactCache
    folder: Path
    convert: Callable[..., None]
    details: tuple[object, ...]
    read: Callable[[Path], Converted]


def convert_in_background(engine: Convertible[Converted], conversion: Conversion[Converted]) -> None:
    """`engine.settled` is set at the end."""
    engine.settled.clear()
    arguments = (weakref.ref(engine), engine.settled, conversion)
    threading.Thread(target=_convert_in_turn, args=arguments, daemon=True).start()


def _convert_in_turn(
    reference: Callable[[], Convertible[Converted] | None], settled: threading.Event, conversion: Conversion[Converted]
) -> None:
    """Holds the engine only while it measures, so that one that is closed meanwhile frees its memory."""
    try:
        with _one_at_a_time:
            if reference() is None:
                return
            verdict = _Verdict(conversion)
            why: str | None = None
            if verdict.rejected is None:
                found = _converted(conversion, verdict.key)
                converted, why = found
                if converted is not None and (engine := reference()) is not None:
                    why = engine.fault(converted)
                    if why is None:
                        engine.use(converted, "OpenVINO")
                        return
                if why not in (None, NO_FASTER):
                    verdict.reject(why)
            if (engine := reference()) is not None:
                engine.use(None, why or verdict.rejected or "it cannot be converted now")
    except Exception:
        logger.info("the model stays as it is", exc_info=True)
    finally:
        settled.set()


def _converted(conversion: Conversion[Converted], key: str) -> tuple[Converted | None, str | None]:
    """The converted model, or why there will be none. Neither where another attempt may succeed."""
    cache = conversion.cache
    try:
        if key not in cache:
            with cache.draft(key) as draft:
                convert_in_child(conversion.convert, conversion.folder, conversion.details, draft)
        place = cache.find(key)
        return (None if place is None else conversion.read(place)), None
    except (OSError, WorkerFailed):
        logger.info("the model stays as it is", exc_info=True)
        return None, None
    except Exception:
        logger.info("the model cannot be converted", exc_info=True)
        return None, "it cannot be converted"


def no_faster(before: Callable[[], object], converted: Callable[[], object]) -> str | None:
    """Why the converted one is not to be used, if it is not worth it."""
    return None if fastest_of(before) / fastest_of(converted) >= WORTH_IT else NO_FASTER


class _Verdict:
    """Why an earlier load kept the model as it was; None: it did not."""

    def __init__(self, conversion: Conversion[Converted]) -> None:
        self._cache = conversion.cache
        folder, program = conversion.folder, Path(inspect.getfile(conversion.convert))
        files = sha256_by_name([folder / "config.json", *folder.glob("*.safetensors*"), program])
        how = [conversion.convert.__module__, conversion.details]
        self.key = digest_key(how, files, [version(maker) for maker in _MAKERS])
        self.rejected: str | None = None
        with suppress(ValueError, TypeError, KeyError):
            self.rejected = json.loads(self._cache.read(f"{self.key}.json") or b"")["rejected"]

    def reject(self, why: str | None) -> None:
        self.rejected = why
        with suppress(OSError):  # where it cannot be kept the next load finds it again
            self._cache.write(f"{self.key}.json", json.dumps({"rejected": why}).encode())
            self._cache.remove(self.key)
