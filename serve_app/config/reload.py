"""The configuration file of a running runtime: which changes take effect at once, and which at the next start."""

from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from deployments.contract.settings import mistakes
from serve_app.config.config import RuntimeConfig

AT_ONCE = ("access",)
"""The keys whose changes take effect at once."""


class Reload:
    """`read` returns the file's configuration or raises ValueError. `forced` makes the next `poll` read the file, even
    one that looks unchanged."""

    def __init__(self, file: Path, read: Callable[[], RuntimeConfig], running: RuntimeConfig) -> None:
        self.file = file
        self.read = read
        self.running = running
        self.forced = False
        self._seen = self._stamp()

    def poll(self, report: Callable[[str], None]) -> RuntimeConfig | None:
        """The new configuration, or None if nothing that takes effect at once has changed. `report` gets one line a
        finding; a broken file is reported and changes nothing."""
        stamp = self._stamp()
        if stamp == self._seen and not self.forced:
            return None
        self._seen, self.forced = stamp, False
        try:
            changed = self._changed(report)
        except ValueError as broken:
            reason = "\n".join(mistakes(broken)) if isinstance(broken, ValidationError) else str(broken)
            report(f"the configuration stays as it was:\n{reason}")
            return None
        if changed == self.running:
            return None
        self.running = changed
        report(f"{self.file.name}: {', '.join(AT_ONCE)} changed, with {len(changed.access.keys)} keys in force")
        return changed

    def _changed(self, report: Callable[[str], None]) -> RuntimeConfig:
        """The running configuration with the file's keys that take effect at once. Raises ValueError."""
        read = self.read()
        # Validated again: the file may drop the keys and the host that needs them, and only the keys go at once.
        changed = RuntimeConfig.model_validate(dict(self.running) | {name: getattr(read, name) for name in AT_ONCE})
        for name in RuntimeConfig.model_fields:
            if name not in AT_ONCE and getattr(read, name) != getattr(self.running, name):
                report(f"{self.file.name}: {name} takes effect at the next start")
        return changed

    def _stamp(self) -> tuple[int, int]:
        try:
            stat = self.file.stat()
        except OSError:
            return 0, 0
        return stat.st_mtime_ns, stat.st_size
