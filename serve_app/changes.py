"""What `model-runtime serve` does with a changed configuration file while it runs: hand it to Serve, and take it back
where its replicas do not start."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from deployments.replica.family import Family
from deployments.system.cache_folder import cache_folder
from serve_app.capacity import refuse_shortage
from serve_app.config.config import RuntimeConfig
from serve_app.config.reload import Reload

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What Serve has come to with the last configuration."""

    failure: str | None = None
    """In one line; None where all replicas have it, or where Serve is still at work."""
    waits: str | None = None
    """What a replica waits for to find room, while Serve is at work."""


@dataclass
class Changes:
    """`run` hands a configuration to Serve and does not wait; `outcome` is None while Serve is at work on it and has
    nothing to say."""

    reload: Reload
    families: Sequence[Family]
    run: Callable[[RuntimeConfig], None]
    outcome: Callable[[], Outcome | None]

    def __post_init__(self) -> None:
        self._good = self.reload.running
        self._begun: float | None = None
        self._waits: str | None = None

    def poll(self, say: Say) -> None:
        """To be called every second. `say` gets one line for each thing that happens."""
        if changed := self.reload.poll(say, partial(refuse_unusable, families=self.families)):
            self._begun, self._waits = time.monotonic(), None
            try:
                self.run(changed)
            except Exception as refused:
                self._take_back(str(refused), say)
        elif self._begun is not None and (outcome := self.outcome()) is not None:
            if outcome.waits:
                if outcome.waits != self._waits:
                    say(f"the change is not in force yet, the old replicas go on: {outcome.waits}")
                self._waits = outcome.waits
                return
            took_s, self._begun = time.monotonic() - self._begun, None
            if outcome.failure is None:
                self._good = self.reload.running
                say(f"the change is in force after {took_s:.0f} s")
            else:
                self._take_back(outcome.failure, say)
                self.run(self._good)

    def _take_back(self, reason: str, say: Say) -> None:
        say(f"the configuration stays as it was: {reason}")
        self.reload.running, self._begun = self._good, None


def refuse_unusable(config: RuntimeConfig, families: Sequence[Family]) -> None:
    """Raises ValueError and OSError for what can be seen before any replica is started."""
    config.repository()
    refuse_shortage(config, families)
    cache_folder(config.cache)
