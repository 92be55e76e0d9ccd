"""The configuration file of a running runtime: what of a change takes effect, and what at the next start."""

from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import BaseModel, ValidationError

from deployments.contract.settings import mistakes
from serve_app.config.config import RuntimeConfig

NEXT_START = ("host", "tls_cert", "tls_key", "grpc_port", "ray_dashboard", "ingress.max_body_mb", "ingress.autoscaling")
"""What HAProxy and Ray are started with. All else takes effect while the runtime runs."""
Check = Callable[[RuntimeConfig], None]


class Reload:
    """`read` returns the file's configuration or raises ValueError. `forced` makes the next `poll` read the file, even
    one that looks unchanged."""

    def __init__(self, file: Path, read: Callable[[], RuntimeConfig], running: RuntimeConfig) -> None:
        self.file = file
        self.read = read
        self.running = running
        self.forced = False
        self._seen = self._stamp()

    def poll(self, report: Callable[[str], None], check: Check = lambda config: None) -> RuntimeConfig | None:
        """The new configuration, or None if nothing of it takes effect now. `report` gets one line a finding; a file
        that is broken, or that `check` refuses with ValueError or OSError, is reported and changes nothing."""
        stamp = self._stamp()
        if stamp == self._seen and not self.forced:
            return None
        self._seen, self.forced = stamp, False
        try:
            changed = self._changed(report)
            check(changed)
        except (ValueError, OSError) as broken:
            reason = "\n".join(mistakes(broken)) if isinstance(broken, ValidationError) else str(broken)
            report(f"the configuration stays as it was:\n{reason}")
            return None
        if changed == self.running:
            return None
        names = ", ".join(_differing(self.running, changed))
        self.running = changed
        report(f"{self.file.name}: {names} changed, with {len(changed.access.keys)} keys in force")
        return changed

    def _changed(self, report: Callable[[str], None]) -> RuntimeConfig:
        """The file's configuration, with what waits for the next start as it is now. Raises ValueError."""
        read = self.read()
        values, running = dict(read), self.running
        waiting = [name for name in NEXT_START if _value(read, name) != _value(running, name)]
        for name in waiting:
            outer, _, inner = name.partition(".")
            now = _value(running, name)
            values[outer] = values[outer].model_copy(update={inner: now}) if inner else now
        # Validated again: the file may drop the keys and the host that needs them, and only the keys go at once.
        changed = RuntimeConfig.model_validate(values)
        for name in waiting:
            report(f"{self.file.name}: {name} takes effect at the next start")
        return changed

    def _stamp(self) -> tuple[int, int]:
        try:
            stat = self.file.stat()
        except OSError:
            return 0, 0
        return stat.st_mtime_ns, stat.st_size


def _value(config: BaseModel, name: str) -> object:
    outer, _, inner = name.partition(".")
    value = getattr(config, outer)
    return _value(value, inner) if inner else value


def _differing(old: RuntimeConfig, new: RuntimeConfig) -> Iterator[str]:
    """The keys whose values differ; of families, those of each that does."""
    for name in RuntimeConfig.model_fields:
        if name == "families":
            families = sorted({*old.families, *new.families})
            yield from (f"families.{family}" for family in families if old.settings(family) != new.settings(family))
        elif getattr(old, name) != getattr(new, name):
            yield name
