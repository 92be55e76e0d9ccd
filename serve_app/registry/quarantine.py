"""Which inputs are refused because replicas end with them. A clock and counters; no Ray.

What is counted are deaths of replicas that computed one input and nothing else; an answer forgets them. At the second
one the input is refused, until the time is over or an operator lifts it.
"""

import json
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict

from deployments.contract.status import QuarantinedInput, Suspect

DEATHS = 2
MOST = 1024
"""Inputs that are known at a time. The oldest are forgotten."""


class Quarantine:
    """`lasts_s`: how long deaths are remembered, and an input is refused; 0 refuses none. `saved` is what `state` of an
    earlier one returned."""

    def __init__(self, lasts_s: float, saved: bytes | None = None, clock: Callable[[], float] = time.time) -> None:
        self.lasts_s = lasts_s
        self.clock = clock
        self._known = {one["digest"]: QuarantinedInput(**one) for one in json.loads(saved or "[]")}

    def died_alone(self, suspect: Suspect) -> bool:
        """Whether the input is refused from now on."""
        self._forget()
        before, now = self._known.pop(suspect.digest, None), self.clock()
        if self.lasts_s <= 0:
            return False
        deaths = before.deaths + 1 if before else 1
        self._known[suspect.digest] = QuarantinedInput(
            **asdict(suspect), deaths=deaths, since=now, until=now + self.lasts_s
        )
        while len(self._known) > MOST:
            del self._known[next(iter(self._known))]
        return deaths >= DEATHS

    def answered_alone(self, digest: str) -> None:
        if digest in self._known and self._known[digest].deaths < DEATHS:
            del self._known[digest]

    def lift(self, digest: str) -> QuarantinedInput | None:
        """The input, which is no more refused; None where it is not."""
        refused = next((one for one in self.inputs() if one.digest == digest), None)
        if refused:
            del self._known[digest]
        return refused

    def inputs(self) -> list[QuarantinedInput]:
        """Those that are refused, the newest last."""
        self._forget()
        return [one for one in self._known.values() if one.deaths >= DEATHS]

    def digests(self) -> dict[str, frozenset[str]]:
        """By model."""
        found: dict[str, set[str]] = defaultdict(set)
        for one in self.inputs():
            found[one.model].add(one.digest)
        return {model: frozenset(digests) for model, digests in found.items()}

    def state(self) -> bytes:
        return json.dumps([asdict(one) for one in self._known.values()]).encode()

    def _forget(self) -> None:
        """Those whose time is over."""
        now = self.clock()
        self._known = {digest: one for digest, one in self._known.items() if one.until > now}
