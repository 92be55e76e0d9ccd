"""A Ray cluster of several nodes on this machine, each with a network namespace, so with an address of its own.

Needs root and `ip`. Each node is started as an operator would start it; the head keeps Ray's state on disk.
"""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.cluster.cluster import BIN, Cluster
from tests.support import PROJECT
from tests.support.until import wait_until

HTTP, GCS, DASHBOARD = 8000, 6379, 8265
START_S = 240.0
STORE = {"RAY_gcs_storage": "rocksdb"}
NETWORK = "198.18.0"
"""Of those that are set aside for tests between networks."""


@dataclass(frozen=True, slots=True)
class Replica:
    deployment: str
    name: str
    node: str
    """Its address."""


@dataclass
class Node:
    name: str
    """Of its namespace."""
    address: str
    command: Sequence[str]
    env: dict[str, str]
    log: Path
    temp: Path
    """Ray's folder."""
    _started: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://{self.address}:{HTTP}"

    def start(self) -> None:
        # Ray would take the raylets of the other nodes, which it can see here, for those of a head that runs.
        (self.temp / "ray_current_cluster").unlink(missing_ok=True)
        inside = ["ip", "netns", "exec", self.name, *self.command]
        with self.log.open("a") as output:
            process = subprocess.Popen(inside, env=self.env, cwd=self.log.parent, stdout=output, stderr=output)
        self._started.append(process)

    def kill(self) -> float:
        """All of its processes, by SIGKILL. Returns when it began, on the clock of time.monotonic."""
        begun = time.monotonic()
        wait_until(self._are_gone, f"{self.name} is gone", 30)
        for process in self._started:
            process.wait()
        return begun

    def _are_gone(self) -> bool:
        pids = _said("ip", "netns", "pids", self.name).split()
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        return not pids

    def answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=10).is_success
        except httpx.TransportError:
            return False


@dataclass(frozen=True)
class Nodes:
    """The first one is the head."""

    cluster: Cluster
    nodes: list[Node]

    def deploy(self, application: dict[str, Any]) -> None:
        """Serve's proxy listens on each node."""
        http = {"host": "0.0.0.0", "port": HTTP}
        file = self.cluster.models.parent / "serve_config.json"
        file.write_text(
            json.dumps({"proxy_location": "EveryNode", "http_options": http, "applications": [application]})
        )
        self.cluster.succeeds("serve", "deploy", "--address", self.cluster.dashboard, str(file))

    def replicas(self) -> set[Replica]:
        """That run, as the dashboard has them; none while it does not answer."""
        try:
            reply = self.cluster.api("GET", "/api/serve/applications/")
        except httpx.TransportError:
            return set()
        if not reply.is_success:
            return set()
        return {
            Replica(name, replica["replica_id"], replica["node_ip"])
            for application in reply.json()["applications"].values()
            for name, deployment in application["deployments"].items()
            for replica in deployment["replicas"]
            if replica["state"] == "RUNNING"
        }

    def is_noticed(self, dead: Node) -> bool:
        """Whether the head knows that this node is gone."""
        rows = self.cluster.api("GET", "/api/v0/nodes").raise_for_status().json()["data"]["result"]["result"]
        return all(row["state"] == "DEAD" for row in rows if row["node_ip"] == dead.address)


def can_have_nodes() -> bool:
    """Whether namespaces can be made here."""
    return os.geteuid() == 0 and shutil.which("ip") is not None


@contextmanager
def started_nodes(models: Path, count: int, cpus: int) -> Iterator[Nodes]:
    """Until the block ends. Then nothing of them is left."""
    with ExitStack() as stack:
        # Short, since Ray's sockets lie in it and a socket's path ends at 107 bytes.
        root = Path(tempfile.mkdtemp(prefix="mr-", dir="/tmp"))
        stack.callback(shutil.rmtree, root)
        addresses = stack.enter_context(_network(count))
        env = {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(root),
            "PYTHONPATH": str(PROJECT),
            "RAY_AUTH_MODE": "token",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        first = next(iter(addresses.values()))
        cluster = Cluster(env, f"{first}:{GCS}", f"http://{first}:{DASHBOARD}", HTTP, models)
        cluster.succeeds("ray", "get-auth-token", "--generate")
        nodes = list[Node]()
        for name, address in addresses.items():
            is_head = address == first
            head = ("--head", f"--port={GCS}", f"--dashboard-host={address}", f"--dashboard-port={DASHBOARD}")
            role = head if is_head else (f"--address={cluster.gcs}",)
            temp = root / str(len(nodes))
            own = (f"--node-ip-address={address}", f"--temp-dir={temp}")
            room = (f"--num-cpus={cpus}", f"--object-store-memory={90 * 2**20}")
            command = (str(BIN / "model-runtime"), "exec", "ray", "start", "--block", *role, *own, *room)
            store = STORE | {"RAY_gcs_storage_path": f"{root}/gcs"} if is_head else {}
            node = Node(name, address, command, env | store, temp.with_suffix(".log"), temp)
            stack.callback(node.kill)
            nodes.append(node)
            node.start()
            if is_head:
                wait_until(lambda: _is_up(cluster), "the head is up", START_S)
        yield Nodes(cluster, nodes)


def _is_up(cluster: Cluster) -> bool:
    try:
        return cluster.api("GET", "/api/version").is_success
    except httpx.TransportError:
        return False


@contextmanager
def _network(count: int) -> Iterator[dict[str, str]]:
    """A bridge, and namespaces that it connects with each other and with this one. Their addresses by their names."""
    bridge, addresses = f"mr{os.getpid()}", dict[str, str]()
    with ExitStack() as stack:
        _said("ip", "link", "add", bridge, "type", "bridge")
        stack.callback(_said, "ip", "link", "del", bridge)
        _said("ip", "address", "add", f"{NETWORK}.254/24", "dev", bridge)
        _said("ip", "link", "set", bridge, "up")
        for number in range(1, count + 1):
            name, link, address = f"{bridge}-{number}", f"{bridge}v{number}", f"{NETWORK}.{number}"
            _said("ip", "netns", "add", name)
            stack.callback(_said, "ip", "netns", "del", name)
            _said("ip", "link", "add", link, "master", bridge, "type", "veth", "peer", "name", "eth0", "netns", name)
            _said("ip", "link", "set", link, "up")
            _said("ip", "-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            _said("ip", "-n", name, "link", "set", "lo", "up")
            _said("ip", "-n", name, "link", "set", "eth0", "up")
            _said("ip", "-n", name, "route", "add", "default", "via", f"{NETWORK}.254")
            addresses[name] = address
        yield addresses


def _said(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout
