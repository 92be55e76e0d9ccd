"""Ray on this machine alone, as `model-runtime serve` starts it: its environment, its folders, its processes."""

import logging
import os
import secrets
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from deployments.system.cache_folder import home
from deployments.system.cpu import SELDOM_WOKEN, starting_observers
from deployments.system.process_memory import ONE_ARENA
from serve_app.capacity import SAYS_WHAT_IS_MISSING, room_wanted
from serve_app.changes import Outcome
from serve_app.http.haproxy import front_environment, middleware_environment

MIB = 2**20
LOOPBACK = "127.0.0.1"
MAX_NAME = 17
REPORT_EVERY_MS = "60000"
"""How often Ray's agent reads the state of every process where no dashboard shows it; Ray has 5 s."""
DASHBOARD_S = "30"
"""How long its start may take; Ray has 60 s, after which the supervisor takes the runtime for dead."""
MAX_RAY_NAME = 36
"""Of the folder for temporary files, in characters: HAProxy's socket below it has a name that is 80 longer and may have
97, Ray's have names up to 71 longer and may have 107."""


def start_ray(folder: Path, fronted: bool, started: float, dashboard: bool = False) -> str | None:
    """`fronted`: with a HAProxy of ours in front. `started`: when the start began, on the clock of time.monotonic.
    `dashboard`: whether `start_dashboard` follows. Returns the file of Ray's token, where that is ours."""
    # Ray reads these when it is imported. Unless RAY_ENABLE_AUTO_CONNECT is 0, Serve's threads start another Ray after
    # the shutdown. RAY_worker_niceness: replicas are workers; at Ray's default, 15, every other process has priority.
    os.environ.update(
        RAY_USAGE_STATS_ENABLED="0",
        RAY_AUTH_MODE="token",
        RAY_ENABLE_AUTO_CONNECT="0",
        RAY_worker_niceness="0",
        RAY_DASHBOARD_STARTUP_TIMEOUT_S=DASHBOARD_S,
        **({} if dashboard else {"REPORTER_UPDATE_INTERVAL_MS": REPORT_EVERY_MS}),
        **SELDOM_WOKEN,
        **ONE_ARENA,
        **SAYS_WHAT_IS_MISSING,
        **(token := token_environment(folder)),
    )
    with progress("importing Ray", started):
        from ray import serve  # noqa: F401

    # For the processes that Ray starts. This one has imported Ray without them, so its handles keep a router with an
    # event loop of its own, and any thread can use them.
    os.environ.update(middleware_environment() | (front_environment(folder) if fronted else {}))
    # Without a HAProxy, Serve's own proxy is among the processes of Ray's, and requests pass it.
    with progress("starting Ray", started), starting_observers() if fronted else nullcontext():
        init_on_loopback(
            object_store_memory=256 * MIB,
            log_to_driver=False,
            logging_level=logging.WARNING,
            _temp_dir=None if "RAY_TMPDIR" in os.environ else str(temporary_folder(MAX_RAY_NAME) / "ray"),
        )
    return token.get("RAY_AUTH_TOKEN_PATH")


def start_dashboard(own_token: str | None) -> None:
    """Ray's. Nothing waits for it, and its processes take as much time to start as a replica: so it comes once requests
    are answered. Prints the way into it."""
    from ray._private.worker import _global_node

    assert _global_node is not None
    with starting_observers():
        _global_node.start_api_server(include_dashboard=True, raise_on_failure=False)
    if _global_node.webui_url:  # Else Ray has logged why.
        print(way_into(_global_node.webui_url, own_token), flush=True)


def way_into(dashboard: str, own_token: str | None) -> str:
    """One line. Ray's dashboard asks for a token, which its address cannot carry."""
    command = f"cat {own_token}" if own_token else f"{Path(sys.executable).with_name('ray')} get-auth-token"
    return f"Ray's dashboard: http://{dashboard} (it asks for a token: {command})"


def temporary_folder(max_name: int) -> Path:
    """The one of TMPDIR; another one where its name is too long for those of the sockets below it. Raises OSError."""
    usual = Path(tempfile.gettempdir())
    for folder in (usual, Path("/tmp"), Path("/dev/shm")):
        if len(os.fsencode(folder)) <= max_name and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise OSError(f"TMPDIR: {usual} is too long a name for sockets; set it to one of at most {max_name} characters")


def token_environment(folder: Path) -> dict[str, str]:
    """Ray keeps the token of this machine in the user's home. Without one that can be written to, the token is ours."""
    own = home()
    try:
        if own is not None:
            (own / ".ray").mkdir(mode=0o700, parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=own / ".ray").close()
            return {}
    except OSError:
        pass
    if "RAY_AUTH_TOKEN_PATH" in os.environ:
        return {}
    token = folder / "ray-token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32), "utf-8")
    return {"RAY_AUTH_TOKEN_PATH": str(token)}


def init_on_loopback(**options: Any) -> None:
    """`ray.init` for this machine alone: every server that Ray starts listens on loopback, nothing follows logs, and
    nothing looks for more nodes.

    Ray has no options for it: it replaces a loopback address by the machine's own, brings every worker's log to the
    driver, has an autoscaler, and without its dashboard starts a server that reports to Ray's makers. Its agent wants
    port 52365: where another Ray has it, the start takes 3.5 s more (findings/ray_starts_slowly_beside_another.sh).
    """
    import ray
    from ray._private import services
    from ray._private.node import Node

    start_raylet = services.start_raylet

    def start_raylet_on_any_port(*given: Any, **named: Any) -> Any:
        return start_raylet(*given, **named | {"dashboard_agent_listen_port": 0})

    replaced: list[tuple[Any, str, Any]] = [
        (services, "resolve_ip_for_localhost", lambda host: host),
        (services, "start_raylet", start_raylet_on_any_port),
        (Node, "start_log_monitor", lambda node: None),
        (Node, "start_monitor", lambda node: None),
        (Node, "start_api_server", lambda node, **_: None),
    ]
    with ExitStack() as restoring:
        for owner, name, replacement in replaced:
            restoring.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, replacement)
        ray.init(address="local", _node_ip_address=LOOPBACK, include_dashboard=False, **options)


def rays_processes() -> dict[str, int]:
    """Those without which nothing is started any more, by name."""
    from ray._private.worker import _global_node

    assert _global_node is not None
    kinds = _global_node.all_processes
    return {name: kinds[name][0].process.pid for name in ("gcs_server", "raylet")}


def outcome_of(application: str) -> Outcome | None:
    """What Serve has come to with the configuration that it was given last; None while it is at work, unless a replica
    finds no room."""
    from ray import serve
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException
    from ray.serve.schema import ApplicationStatus

    try:
        status = serve.status().applications[application]
    except (KeyError, RayError, RayServeException):  # The controller is being started again.
        return None
    if status.status == ApplicationStatus.RUNNING:
        return Outcome()
    messages = [deployment.message for deployment in status.deployments.values() if deployment.message]
    if status.status != ApplicationStatus.DEPLOY_FAILED:
        waits = next(filter(None, map(room_wanted, messages)), None)
        return Outcome(waits=waits) if waits else None
    *_, last = filter(None, "\n".join([status.message, *messages]).splitlines())
    return Outcome(last)


def stop_ray() -> None:
    import ray

    ray.shutdown()


@contextmanager
def progress(what: str, started: float) -> Iterator[None]:
    """Prints what is under way, and again every five seconds while it is."""
    ended = threading.Event()

    def print_progress() -> None:
        print(f"[{time.monotonic() - started:4.0f} s] {what} …", flush=True)
        while not ended.wait(5):
            print(f"[{time.monotonic() - started:4.0f} s] still {what} …", flush=True)

    printer = threading.Thread(target=print_progress, daemon=True)
    printer.start()
    try:
        yield
    finally:
        ended.set()
        printer.join()
        sys.stdout.flush()
