"""Converts an encoder for OpenVINO in the background, while PyTorch answers. The converted one takes its place where it
gives the same vectors and measures faster."""

import json
import logging
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import numpy as np

from deployments.contract.errors import ServingError
from deployments.engines.embedding.batching import EncodedText
from deployments.engines.embedding.openvino_convert import CONVERTED, convert_in_child
from deployments.engines.embedding.openvino_encoder import OpenVinoEncoder
from deployments.engines.vision.forward import fastest_of
from deployments.system.artifact_cache import ArtifactCache, digest_key, sha256_by_name
from deployments.system.worker_process import WorkerFailed

logger = logging.getLogger(__name__)

WORTH_IT = 1.05
"""It must be so many times as fast."""
NO_FASTER = "converted it is no faster"
"""The one reason that is not kept: other processes may have computed meanwhile."""
SAME = 1e-5
LENGTHS = (1, 5, 24, 60)
"""Of the texts that both compute, as far as the model takes so many tokens."""
_MAKERS = ("openvino", "torch", "transformers", "model-runtime")
_one_at_a_time = threading.Lock()


class Convertible(Protocol):
    """What of an engine the conversion takes."""

    argument_names: tuple[str, ...]
    settled: threading.Event
    cores: int

    @property
    def most_tokens(self) -> int: ...
    def example(self, length: int) -> EncodedText: ...
    def vectors(
        self, texts: Sequence[EncodedText], by: OpenVinoEncoder | None = None
    ) -> list[np.ndarray | ServingError]: ...
    def batches(self, texts: Sequence[EncodedText]) -> list[list[EncodedText]]: ...
    def use(self, encoder: OpenVinoEncoder | None, note: str) -> None: ...


def convert_in_background(engine: Convertible, folder: Path, cache: ArtifactCache) -> None:
    """`engine.settled` is set at the end."""
    engine.settled.clear()
    arguments = (weakref.ref(engine), engine.settled, folder, cache)
    threading.Thread(target=_convert_in_turn, args=arguments, daemon=True).start()


def _convert_in_turn(
    reference: Callable[[], Convertible | None], settled: threading.Event, folder: Path, cache: ArtifactCache
) -> None:
    """Holds the engine only while it measures, so that one that is closed meanwhile frees its memory."""
    try:
        with _one_at_a_time:
            if (engine := reference()) is None:
                return
            names, most_tokens, cores = engine.argument_names, engine.most_tokens, engine.cores
            del engine
            verdict, why = _Verdict(cache, folder), None
            if verdict.rejected is None:
                encoder, why = _converted(cache, verdict.key, folder, names, most_tokens, cores)
                if encoder is not None and (engine := reference()) is not None:
                    why = fault(engine, encoder)
                    if why is None:
                        engine.use(encoder, OpenVinoEncoder.note)
                        return
                if why not in (None, NO_FASTER):
                    verdict.reject(why)
            if (engine := reference()) is not None:
                engine.use(None, why or verdict.rejected or "it cannot be converted now")
    except Exception:
        logger.info("the encoder stays as it is", exc_info=True)
    finally:
        settled.set()


def _converted(
    cache: ArtifactCache, key: str, folder: Path, names: Sequence[str], most_tokens: int, cores: int
) -> tuple[OpenVinoEncoder | None, str | None]:
    """The encoder, or why there will be none. Neither where another attempt may succeed."""
    try:
        if key not in cache:
            with cache.draft(key) as draft:
                convert_in_child(folder, names, most_tokens, draft)
        place = cache.find(key)
        return (None if place is None else OpenVinoEncoder(place / CONVERTED, cores)), None
    except (OSError, WorkerFailed):
        logger.info("the encoder stays as it is", exc_info=True)
        return None, None
    except Exception:
        logger.info("the encoder cannot be converted", exc_info=True)
        return None, "it cannot be converted"


def fault(engine: Convertible, other: OpenVinoEncoder) -> str | None:
    """Why `other` is not to be used; None: it gives the same vectors, alone and in batches, and sooner."""
    texts = [engine.example(min(length, engine.most_tokens)) for length in LENGTHS]
    for batch in [*([text] for text in texts), *engine.batches(texts * 2)]:
        for ours, theirs in zip(engine.vectors(batch), engine.vectors(batch, other), strict=True):
            both = isinstance(ours, np.ndarray) and isinstance(theirs, np.ndarray)
            if not both or not np.allclose(ours, theirs, atol=SAME, rtol=SAME):  # type: ignore[arg-type]
                return "converted it gives other vectors"
    one = [texts[2]]
    gain = fastest_of(partial(engine.vectors, one)) / fastest_of(partial(engine.vectors, one, other))
    return None if gain >= WORTH_IT else NO_FASTER


class _Verdict:
    """Why an earlier load kept the encoder as it was; None: it did not."""

    def __init__(self, cache: ArtifactCache, folder: Path) -> None:
        self._cache = cache
        files = sha256_by_name([folder / "config.json", *folder.glob("*.safetensors*")])
        self.key = digest_key("encoder", files, [version(maker) for maker in _MAKERS])
        self.rejected: str | None = None
        with suppress(ValueError, TypeError, KeyError):
            self.rejected = json.loads(cache.read(f"{self.key}.json") or b"")["rejected"]

    def reject(self, why: str | None) -> None:
        self.rejected = why
        with suppress(OSError):  # where it cannot be kept the next load finds it again
            self._cache.write(f"{self.key}.json", json.dumps({"rejected": why}).encode())
            self._cache.remove(self.key)
