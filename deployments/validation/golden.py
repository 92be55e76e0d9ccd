"""A golden example of model.yaml: a request, and the answer that the model must give before it answers a caller."""

import abc
from pathlib import Path

from deployments.contract.errors import quoted
from deployments.contract.settings import Strict
from deployments.contract.types import InferRequest, InferResponse


class NotGolden(Exception):
    """An example that cannot be asked, and why, in one line."""


class GoldenExample(Strict, abc.ABC):
    """An entry of model.yaml's `golden`. Each family has its own subclass, with the fields of the entry."""

    @property
    @abc.abstractmethod
    def title(self) -> str:
        """What names it in an error message."""

    @abc.abstractmethod
    def request(self, model_id: str, folder: Path) -> InferRequest:
        """The request. Files are read from the model's folder. Raises NotGolden."""

    @abc.abstractmethod
    def fault(self, answer: InferResponse) -> str | None:
        """How the answer differs, in one line; None where it is the right one."""


def content_of(folder: Path, name: str, what: str) -> bytes:
    """A file of the model's folder, for an example. `what`: the kind of file. Raises NotGolden."""
    try:
        return (folder / name).read_bytes()
    except OSError:
        raise NotGolden(f"there is no {what} {quoted(name)} for a golden example") from None
