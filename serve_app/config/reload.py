"""The configuration file of a runtime that runs: what may change while it does, and what waits for the next start."""

from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from deployments.contract.settings import mistakes
from serve_app.config.config import RuntimeConfig

RUNNING = ("access",)
"""What takes effect at once."""


class Reload:
    """`read` gives the file's configuration or raises ValueError. `forced` makes the next `poll` read it anyway."""

    def __init__(self, file: Path, read: Callable[[], RuntimeConfig], running: RuntimeConfig) -> None:
        self.file = file
        self.read = read
        self.running = running
        self.forced = False
        self._seen = self._stamp()

    def poll(self, tell: Callable[[str], None]) -> RuntimeConfig | None:
        """The configuration to run from now on, where it is another one. A broken file changes nothing and says why."""
        stamp = self._stamp()
        if stamp == self._seen and not self.forced:
            return None
        self._seen, self.forced = stamp, False
        try:
            read = self.read()
            # Held to the rules again: keys may be there to go with a host that changes only at the next start.
            running = dict(self.running) | {name: getattr(read, name) for name in RUNNING}
            changed = RuntimeConfig.model_validate(running)
        except ValueError as broken:
            said = "\n".join(mistakes(broken)) if isinstance(broken, ValidationError) else str(broken)
            tell(f"the configuration stays as it was:\n{said}")
            return None
        for name in RuntimeConfig.model_fields:
            if name not in RUNNING and getattr(read, name) != getattr(self.running, name):
                tell(f"{self.file.name}: {name} takes effect at the next start")
        if changed == self.running:
            return None
        self.running = changed
        tell(f"{self.file.name}: {', '.join(RUNNING)} changed, with {len(changed.access.keys)} keys in force")
        return changed

    def _stamp(self) -> tuple[int, int]:
        try:
            stat = self.file.stat()
        except OSError:
            return 0, 0
        return stat.st_mtime_ns, stat.st_size
