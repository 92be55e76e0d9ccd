"""Who may do what, and how much: API keys, rate limits, daily quotas. A clock and counters; no HTTP, no Ray.

Without keys anybody may do anything, which is why only loopback goes without. With keys every route but health needs
one, and what changes the models needs an administrator's. Keys are stored as SHA-256: they are random, not chosen.
"""

import hashlib
import hmac
import math
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, model_validator

from deployments.contract.errors import InvalidRequest, Overloaded, PermissionDenied, Unauthenticated, quoted
from deployments.contract.settings import Strict
from serve_app.access.caller import ANONYMOUS, Caller, Priority

KEY_PREFIX = "mr-"
OPEN = frozenset({"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"})
READING = frozenset({"GET", "HEAD"})
DAY_S = 86400

Clock = Callable[[], float]


class KeySettings(Strict):
    """One key; `model-runtime keys new` makes one."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    administrator: bool = False
    """May load, unload and pin models too."""
    share: Annotated[int, Field(ge=1)] = 1
    """How many turns it gets for another key's one where requests have to wait."""
    may_prioritise: bool = False
    """May send `x-priority: high`."""
    requests_per_second: Annotated[float, Field(gt=0)] | None = None
    burst: Annotated[int, Field(ge=1)] = 10
    """How many requests may come at once before the rate holds."""
    requests_per_day: Annotated[int, Field(ge=1)] | None = None
    tokens_per_day: Annotated[int, Field(ge=1)] | None = None
    """Of prompts and generated texts. Days are those of UTC."""


class AccessSettings(Strict):
    """Keys by name. May be changed while the runtime runs."""

    keys: Mapping[str, KeySettings] = {}

    @model_validator(mode="after")
    def _different(self) -> "AccessSettings":
        if len({key.sha256 for key in self.keys.values()}) < len(self.keys):
            raise ValueError("two names have the same key")
        return self


def new_key() -> tuple[str, str]:
    """A key and its SHA-256."""
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    return key, hashlib.sha256(key.encode()).hexdigest()


@dataclass(slots=True)
class Usage:
    """What a key has used. `at` is on the clock, `day` the day of UTC."""

    allowance: float
    at: float
    day: int = 0
    requests: int = 0
    tokens: int = 0


class Access:
    """The keys in force and what was used of them."""

    def __init__(self, settings: AccessSettings, clock: Clock = time.monotonic, wall: Clock = time.time) -> None:
        self.clock = clock
        self.wall = wall
        self._usage: dict[str, Usage] = {}
        self.update(settings)

    def update(self, settings: AccessSettings) -> None:
        """Other settings from now on; what was used today stays used."""
        self.settings = settings
        self._names = {key.sha256: name for name, key in settings.keys.items()}

    def caller(self, method: str, path: str, headers: Mapping[str, str]) -> Caller:
        """Raises Unauthenticated, PermissionDenied, and InvalidRequest for a header that makes no sense."""
        name = self._name(headers) if self._names and path not in OPEN else ""
        if name and not self.settings.keys[name].administrator and administers(method, path):
            raise PermissionDenied("this route needs an administrator's key")
        asked_priority, asked_deadline = headers.get("x-priority"), headers.get("x-deadline-ms")
        if not name and asked_priority is None and asked_deadline is None:
            return ANONYMOUS
        share = self.settings.keys[name].share if name else 1
        return Caller(name, share, self._priority(name, asked_priority), self._deadline(asked_deadline))

    def check(self, caller: Caller) -> None:
        """Raises Overloaded, which says when to come again, where the caller has used up what it may."""
        key = self.settings.keys.get(caller.name)
        if key is None:
            return
        usage = self._used(caller.name, key)
        if key.requests_per_second is not None and usage.allowance < 1:
            raise _refused("too many requests a second for this key", (1 - usage.allowance) / key.requests_per_second)
        tomorrow_s = (usage.day + 1) * DAY_S - self.wall()
        if key.requests_per_day is not None and usage.requests >= key.requests_per_day:
            raise _refused("this key's requests of today are used up", tomorrow_s)
        if key.tokens_per_day is not None and usage.tokens >= key.tokens_per_day:
            raise _refused("this key's tokens of today are used up", tomorrow_s)

    def take(self, caller: Caller) -> None:
        """Counts one request. Raises what `check` raises."""
        key = self.settings.keys.get(caller.name)
        if key is not None:
            self.check(caller)
            usage = self._usage[caller.name]
            usage.requests += 1
            if key.requests_per_second is not None:  # One that is set later starts with a whole burst.
                usage.allowance -= 1

    def spend(self, caller: Caller, tokens: int) -> None:
        """Counts what a request has come to; the last one of a day may go beyond the quota."""
        key = self.settings.keys.get(caller.name)
        if key is not None:
            self._used(caller.name, key).tokens += tokens

    def _name(self, headers: Mapping[str, str]) -> str:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not given.strip():
            raise Unauthenticated("send an API key: `authorization: Bearer KEY`")
        digest = hashlib.sha256(given.strip().encode("utf-8", "surrogatepass")).hexdigest()
        known = ""
        for sha256, name in self._names.items():  # all of them, each in constant time
            if hmac.compare_digest(sha256, digest):
                known = name
        if not known:
            raise Unauthenticated("unknown API key")
        return known

    def _priority(self, name: str, asked: str | None) -> Priority:
        if asked is None:
            return Priority.NORMAL
        priority = _PRIORITIES.get(asked.strip().lower())
        if priority is None:
            raise InvalidRequest(f"x-priority: {quoted(asked)} is none of {', '.join(_PRIORITIES)}")
        if priority is Priority.HIGH and name and not self.settings.keys[name].may_prioritise:
            raise PermissionDenied("this key may not ask for high priority")
        return priority

    def _deadline(self, asked: str | None) -> float | None:
        if asked is None:
            return None
        if not (asked.isascii() and asked.isdigit() and len(asked) <= 12 and int(asked) > 0):
            raise InvalidRequest(f"x-deadline-ms: {quoted(asked)} is no positive number of milliseconds")
        return self.clock() + int(asked) / 1000

    def _used(self, name: str, key: KeySettings) -> Usage:
        now, day = self.clock(), int(self.wall() // DAY_S)
        usage = self._usage.setdefault(name, Usage(float(key.burst), now, day))
        if usage.day != day:
            usage.day, usage.requests, usage.tokens = day, 0, 0
        if key.requests_per_second is not None:
            usage.allowance = min(usage.allowance + (now - usage.at) * key.requests_per_second, float(key.burst))
        usage.at = now
        return usage


def administers(method: str, path: str) -> bool:
    """Whether a route changes the models."""
    if method in READING:
        return False
    return path.startswith(("/models/", "/v2/repository/models/"))


_PRIORITIES = {priority.name.lower(): priority for priority in Priority}


def _refused(reason: str, wait_s: float) -> Overloaded:
    refused = Overloaded(reason)
    refused.retry_after_ms = max(math.ceil(wait_s * 1000), 1)
    return refused
