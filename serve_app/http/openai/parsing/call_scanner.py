"""Reads one call of a tool while a model writes it: `{"name": …, "arguments": {…}}`. Pure."""

import json

_ARGUMENTS = ("arguments", "parameters")


class CallScanner:
    """Takes the text of one JSON object as it comes. It must begin with the object's brace.

    Without a `name` the object has one; with it, the object is the arguments themselves.
    """

    def __init__(self, name: str | None = None) -> None:
        self.name = name
        self.raw = ""
        self.ended = False
        self._bare = name is not None
        self._at = 0
        self._depth = 0
        self._in_string = self._escaped = False
        self._string_at = 0
        self._key: str | None = None
        self._value_at: int | None = None
        """Where the value of `_key` begins, once it has begun."""
        self._arguments: tuple[int, int | None] | None = (0, None) if self._bare else None
        """Where the arguments begin, and where they end."""
        self._taken = 0

    def feed(self, text: str) -> str:
        """Returns what follows the object."""
        self.raw += text
        while self._at < len(self.raw) and not self.ended:
            self._read(self.raw[self._at])
            self._at += 1
        rest, self.raw = self.raw[self._at :], self.raw[: self._at]
        return rest

    def take(self) -> str:
        """The arguments that have come since the last call. Nothing before the name is known."""
        if self.name is None or not self.raw:
            return ""
        if self._arguments is None:
            # An object without arguments.
            return self._once("{}") if self.ended else ""
        start, end = self._arguments
        if self.raw[start] not in '"{[':
            return "" if end is None else self._once("{}" if self.raw[start:end] == "null" else self.raw[start:end])
        if self.raw[start] == '"':
            # Some models write them as a string that holds JSON.
            return "" if end is None else self._once(_loaded(self.raw[start:end]))
        start, end = max(start, self._taken), self._at if end is None else end
        self._taken = end
        return self.raw[start:end]

    def _once(self, arguments: str) -> str:
        if self._taken:
            return ""
        self._taken = len(self.raw)
        return arguments

    def _read(self, character: str) -> None:
        if self._in_string:
            self._read_in_string(character)
        elif character == '"':
            self._in_string, self._string_at = True, self._at
            self._begin_value()
        elif character in "{[":
            self._begin_value()
            self._depth += 1
        elif character in "}]":
            self._close()
        elif self._depth == 1 and character == ",":
            self._end_value(self._at)
            self._key = None
        elif character != ":" and not character.isspace():
            self._begin_value()

    def _read_in_string(self, character: str) -> None:
        if self._escaped:
            self._escaped = False
        elif character == "\\":
            self._escaped = True
        elif character == '"':
            self._in_string = False
            if self._depth == 1 and self._key is None:
                self._key = _loaded(self.raw[self._string_at : self._at + 1])
            elif self._depth == 1:
                self._end_value(self._at + 1)

    def _close(self) -> None:
        if self._depth == 1:
            self._end_value(self._at)
            self.ended = True
            if self._bare:
                self._arguments = (0, self._at + 1)
        self._depth -= 1
        if self._depth == 1:
            self._end_value(self._at + 1)

    def _begin_value(self) -> None:
        if self._depth == 1 and self._key is not None and self._value_at is None:
            self._value_at = self._at
            if self._key in _ARGUMENTS and not self._bare:
                self._arguments = (self._at, None)

    def _end_value(self, end: int) -> None:
        if self._value_at is None or self._key is None:
            return
        value = self.raw[self._value_at : end].rstrip()
        if self._key == "name" and not self._bare and value.startswith('"'):
            self.name = _loaded(value)
        elif self._arguments == (self._value_at, None):
            self._arguments = (self._value_at, self._value_at + len(value))
        self._value_at = None


def _loaded(literal: str) -> str:
    """The text of a JSON string; the literal itself where it is none."""
    try:
        return str(json.loads(literal, strict=False))
    except ValueError:
        return literal
