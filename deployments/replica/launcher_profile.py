"""What the launcher (`model-runtime serve`) hands to HAProxy and to the replicas: a folder, and names in it.

It travels in Ray Serve's own environment variables. Imports no Ray: the launcher sets them before Ray is imported.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

HAPROXY = "model-runtime-haproxy"
"""The program that Serve starts in HAProxy's place; it marks the fast profile."""
_CONFIGURATION = "haproxy.cfg"


@dataclass(frozen=True, slots=True)
class LauncherProfile:
    """`folder` is private to this runtime and takes HAProxy's configuration and all sockets."""

    folder: Path

    @classmethod
    def found(cls, binary: str, configuration: str) -> Self | None:
        """The profile by the paths of HAProxy's program and configuration; None where HAProxy does not run in front."""
        return cls(Path(configuration).parent) if Path(binary).name == HAPROXY else None

    @classmethod
    def around(cls, configuration: Path) -> Self:
        """The profile by HAProxy's configuration file, which Serve writes into one folder for each node."""
        return cls(configuration.parent.parent)

    def environment(self, program: str) -> dict[str, str]:
        """The variables by which replicas find the profile; `program` is the path of `model-runtime-haproxy`."""
        return {
            "RAY_SERVE_HAPROXY_BINARY_PATH": program,
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(self.folder / _CONFIGURATION),
        }

    def serve_environment(self, program: str) -> dict[str, str]:
        """The same where Ray Serve starts HAProxy."""
        return self.environment(program) | {
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(self.folder / "admin.sock"),
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(self.folder / "metrics.sock"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(self.folder),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(self.folder / "server-state"),
        }

    @property
    def max_body_file(self) -> Path:
        """Holds the largest body that HAProxy takes, in bytes."""
        return self.folder / "max-body-bytes"

    def ingress_socket(self, place: int) -> Path:
        """Where the HAProxy of `model-runtime serve` finds an ingress replica. Each has a place of its own."""
        return self.folder / f"ingress-{place}.sock"

    def socket(self, replica_id: str) -> Path:
        """Where a replica of this machine can be reached, past Serve."""
        return self.folder / f"{replica_id}.sock"

    def crash_file(self, replica_id: str) -> Path:
        """What a replica of this machine reports of its crash."""
        return self.folder / f"{replica_id}.crash"

    def alone_file(self, call_id: str) -> Path:
        """There while a replica of this machine computes this call and nothing else. It outlives the replica."""
        return self.folder / f"{call_id}.alone"
