"""API keys, their rate limits and their daily quotas. Knows request headers; no HTTP server, no Ray.

Without keys every request is allowed, so the configuration requires keys for any address but loopback. With keys,
every route needs one except health and the pages for browsers, and a route that changes models needs an administrator's
key. A key is stored as its SHA-256: keys are random, so that no slow hash is needed.
"""

import hashlib
import hmac
import math
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field, model_validator

from deployments.contract.errors import InvalidRequest, Overloaded, PermissionDenied, Unauthenticated, quoted
from deployments.contract.settings import Strict
from serve_app.access.caller import ANONYMOUS, DEADLINE_HEADER, PRIORITY_HEADER, Caller, Priority

KEY_PREFIX = "mr-"
HEALTH_PATHS = frozenset({"/healthz", "/health", "/readyz", "/v2/health/live", "/v2/health/ready"})
PAGES = frozenset({"/", "/docs"})
"""Static files, as all below the next two. Their scripts send the key; no browser sends one for the page itself."""
PAGE_FILES = ("/home/", "/docs/swagger/")
METRICS_PATH = "/metrics"
QUARANTINE_PATH = "/quarantine"
READ_METHODS = frozenset({"GET", "HEAD"})
DAY_S = 86400

Clock = Callable[[], float]


class KeySettings(Strict):
    """One key. `model-runtime keys new` creates one."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    administrator: bool = False
    """Whether the key may load, unload and pin models, and see and lift the quarantine."""
    metrics_only: bool = False
    """Whether the key may do nothing but read `/metrics`, as Prometheus does."""
    share: Annotated[int, Field(ge=1)] = 1
    """Where requests wait, this many are sent for each one of a key with share 1."""
    may_prioritise: bool = False
    """Whether the key may send `x-priority: high`."""
    requests_per_second: Annotated[float, Field(gt=0)] | None = None
    burst: Annotated[int, Field(ge=1)] = 10
    """How many requests may be sent at once before `requests_per_second` limits them."""
    requests_per_day: Annotated[int, Field(ge=1)] | None = None
    tokens_per_day: Annotated[int, Field(ge=1)] | None = None
    """Prompt tokens and generated tokens. A day is one of UTC."""

    @model_validator(mode="after")
    def _one_role(self) -> "KeySettings":
        if self.administrator and self.metrics_only:
            raise ValueError("an administrator's key cannot be metrics_only")
        return self


class AccessSettings(Strict):
    """Keys by name. Can be changed while the runtime runs."""

    keys: Mapping[str, KeySettings] = {}

    @model_validator(mode="after")
    def _no_key_twice(self) -> "AccessSettings":
        if len({key.sha256 for key in self.keys.values()}) < len(self.keys):
            raise ValueError("two names have the same key")
        return self


def new_key() -> tuple[str, str]:
    """A key and its SHA-256."""
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    return key, hashlib.sha256(key.encode()).hexdigest()


@dataclass(slots=True)
class Usage:
    """What a key has used: a token bucket for its rate, and counts of one day."""

    allowance: float
    """Requests that may be sent at once, at time `at` of the monotonic clock."""
    at: float
    day: int = 0
    """Days since 1970-01-01, UTC."""
    requests: int = 0
    tokens: int = 0


class Access:
    """The configured keys and their usage."""

    def __init__(self, settings: AccessSettings, clock: Clock = time.monotonic, wall_clock: Clock = time.time) -> None:
        self.clock = clock
        self.wall_clock = wall_clock
        self._usage: dict[str, Usage] = {}
        self.update(settings)

    def update(self, settings: AccessSettings) -> None:
        """Replaces the settings. Usage is kept."""
        self.settings = settings
        self._names = {key.sha256: name for name, key in settings.keys.items()}

    def caller(self, method: str, path: str, headers: Mapping[str, str]) -> Caller:
        """`headers`: by lower-case name. Raises Unauthenticated, PermissionDenied, InvalidRequest."""
        name = self._name(headers) if self._names and not is_open(path) else ""
        if name:
            self._check_role(self.settings.keys[name], method, path)
        priority, deadline = headers.get(PRIORITY_HEADER), headers.get(DEADLINE_HEADER)
        if not name and priority is None and deadline is None:
            return ANONYMOUS
        share = self.settings.keys[name].share if name else 1
        return Caller(name, share, self._priority(name, priority), self._deadline(deadline))

    def rescheduled(self, caller: Caller, headers: Mapping[str, str]) -> Caller:
        """The caller with the priority and the deadline that a request's body names, under the names of their headers.

        Raises PermissionDenied, InvalidRequest.
        """
        if priority := headers.get(PRIORITY_HEADER):
            caller = replace(caller, priority=self._priority(caller.name, priority))
        if deadline := headers.get(DEADLINE_HEADER):
            caller = replace(caller, deadline_at=self._deadline(deadline))
        return caller

    def may_see(self, caller: Caller, name: str) -> bool:
        """Whether a caller may see the requests of the key with this name: its own, or an administrator."""
        key = self.settings.keys.get(caller.name)
        return not self.settings.keys or caller.name == name or (key is not None and key.administrator)

    def check(self, caller: Caller) -> None:
        """Raises Overloaded, with `retry_after_ms`, if the caller has reached its rate or a quota."""
        key = self.settings.keys.get(caller.name)
        if key is None:
            return
        usage = self._used(caller.name, key)
        if key.requests_per_second is not None and usage.allowance < 1:
            wait_s = (1 - usage.allowance) / key.requests_per_second
            raise _overloaded("too many requests a second for this key", wait_s)
        tomorrow_s = (usage.day + 1) * DAY_S - self.wall_clock()
        if key.requests_per_day is not None and usage.requests >= key.requests_per_day:
            raise _overloaded("this key's requests of today are used up", tomorrow_s)
        if key.tokens_per_day is not None and usage.tokens >= key.tokens_per_day:
            raise _overloaded("this key's tokens of today are used up", tomorrow_s)

    def take(self, caller: Caller) -> None:
        """Counts one request. Raises what `check` raises."""
        key = self.settings.keys.get(caller.name)
        if key is not None:
            self.check(caller)
            usage = self._usage[caller.name]
            usage.requests += 1
            if key.requests_per_second is not None:
                # Without a rate the bucket stays full, for a rate that is configured later.
                usage.allowance -= 1

    def spend(self, caller: Caller, tokens: int) -> None:
        """Counts a request's tokens. They are known only afterwards, so a day's last request may exceed the quota."""
        key = self.settings.keys.get(caller.name)
        if key is not None:
            self._used(caller.name, key).tokens += tokens

    def _check_role(self, key: KeySettings, method: str, path: str) -> None:
        """Raises PermissionDenied."""
        if not key.administrator and administers(method, path):
            raise PermissionDenied("this route needs an administrator's key")
        if key.metrics_only and path != METRICS_PATH:
            raise PermissionDenied(f"this key may only read {METRICS_PATH}")

    def _name(self, headers: Mapping[str, str]) -> str:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not given.strip():
            raise Unauthenticated("send an API key: `authorization: Bearer KEY`")
        digest = hashlib.sha256(given.strip().encode("utf-8", "surrogatepass")).hexdigest()
        # Every key is compared, each in constant time: the duration reveals nothing.
        known = [name for sha256, name in self._names.items() if hmac.compare_digest(sha256, digest)]
        if not known:
            raise Unauthenticated("unknown API key")
        return known[0]

    def _priority(self, name: str, value: str | None) -> Priority:
        if value is None:
            return Priority.NORMAL
        priority = _PRIORITIES.get(value.strip().lower())
        if priority is None:
            raise InvalidRequest(f"{PRIORITY_HEADER}: {quoted(value)} is none of {', '.join(_PRIORITIES)}")
        if priority is Priority.HIGH and name and not self.settings.keys[name].may_prioritise:
            raise PermissionDenied("this key may not ask for high priority")
        return priority

    def _deadline(self, value: str | None) -> float | None:
        if value is None:
            return None
        if not (value.isascii() and value.isdigit() and len(value) <= 12 and int(value) > 0):
            raise InvalidRequest(f"{DEADLINE_HEADER}: {quoted(value)} is no positive number of milliseconds")
        return self.clock() + int(value) / 1000

    def _used(self, name: str, key: KeySettings) -> Usage:
        now, day = self.clock(), int(self.wall_clock() // DAY_S)
        usage = self._usage.setdefault(name, Usage(float(key.burst), now, day))
        if usage.day != day:
            usage.day, usage.requests, usage.tokens = day, 0, 0
        if key.requests_per_second is not None:
            usage.allowance = min(usage.allowance + (now - usage.at) * key.requests_per_second, float(key.burst))
        usage.at = now
        return usage


def is_open(path: str) -> bool:
    """Whether a path needs no key."""
    return path in HEALTH_PATHS or path in PAGES or path.startswith(PAGE_FILES)


def administers(method: str, path: str) -> bool:
    """Whether a request changes models, or looks into the quarantine."""
    changes_models = method not in READ_METHODS and path.startswith("/models/")
    return changes_models or path == QUARANTINE_PATH or path.startswith(f"{QUARANTINE_PATH}/")


_PRIORITIES = {priority.name.lower(): priority for priority in Priority}


def _overloaded(reason: str, wait_s: float) -> Overloaded:
    overloaded = Overloaded(reason)
    overloaded.retry_after_ms = max(math.ceil(wait_s * 1000), 1)
    return overloaded
