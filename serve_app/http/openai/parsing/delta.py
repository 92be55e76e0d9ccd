"""What a piece of a model's text adds to an answer: text, reasoning, calls of tools. Pure."""

import secrets
import string
from collections.abc import Iterable
from dataclasses import dataclass, field

_ID_CHARACTERS = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True)
class CallDelta:
    """The beginning of a call, which has an id and a name, or more of its arguments, which are JSON."""

    index: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None


@dataclass(slots=True)
class Delta:
    text: str = ""
    reasoning: str = ""
    calls: list[CallDelta] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.text or self.reasoning or self.calls)

    def __iadd__(self, other: "Delta") -> "Delta":
        self.text += other.text
        self.reasoning += other.reasoning
        self.calls += other.calls
        return self


@dataclass(frozen=True, slots=True)
class Call:
    """A whole call."""

    id: str
    name: str
    arguments: str


def whole_calls(deltas: Iterable[CallDelta]) -> list[Call]:
    calls: dict[int, Call] = {}
    for delta in deltas:
        known = calls.get(delta.index, Call(delta.id or "", delta.name or "", ""))
        calls[delta.index] = Call(known.id, known.name, known.arguments + delta.arguments)
    return list(calls.values())


def new_call_id() -> str:
    """Nine letters and digits: Mistral's templates refuse any other form."""
    return "".join(secrets.choice(_ID_CHARACTERS) for _ in range(9))
