"""The errors that a caller gets for a step that failed, and for a model that does not load."""

import logging
import re
from pathlib import Path

import torch

from deployments.contract.errors import Internal, ModelLoadFailed, OutOfMemory, ServingError

log = logging.getLogger(__name__)


def as_serving_error(failure: Exception) -> ServingError:
    """Hides the cause from callers, and logs it."""
    if isinstance(failure, ServingError):
        return failure
    log.error("a step failed", exc_info=failure)
    if wants_memory(failure):
        return OutOfMemory("there is not enough memory for this request")
    return Internal("the model failed on this request")


def load_failure(failure: Exception, folder: Path, what: str = "the model") -> ServingError:
    """Why a folder does not load, in one line without a path. `what` of it cannot be read."""
    if isinstance(failure, ServingError):
        return failure
    log.error("%s cannot be read", what, exc_info=failure)
    line = f"{what} cannot be read ({one_line(failure, folder)})"
    may_pass = wants_memory(failure) or (isinstance(failure, OSError) and failure.errno is not None)
    return ModelLoadFailed.for_now(line) if may_pass else ModelLoadFailed(line)


def one_line(failure: Exception, folder: Path) -> str:
    """The kind of a library's error and the first line of its message, without paths and addresses."""
    first = (str(failure).strip().splitlines() or [""])[0].replace(str(folder), folder.name)
    line = re.sub(r"\S*/\S*", "…", first)[:200]
    return f"{type(failure).__name__}: {line}".removesuffix(": ")


def wants_memory(failure: Exception) -> bool:
    """Whether memory was missing. torch on the CPU, OpenVINO and CUDA's libraries raise it with no type of its own."""
    message = str(failure).lower()
    return isinstance(failure, MemoryError | torch.OutOfMemoryError) or any(words in message for words in _NO_MEMORY)


_NO_MEMORY = ("allocate memory", "failed to allocate", "out of memory", "bad_alloc", "bad allocation")
