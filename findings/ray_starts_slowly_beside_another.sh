#!/bin/bash
# Ray 2.60.0. Each node's dashboard agent listens on port 52365, also where Ray is started without a dashboard. Where the port is
# taken, by another Ray of the machine say, the agent tries it for 3.5 s, goes on without it, and the raylet waits meanwhile: `ray.init`
# takes so much longer. There is no option of `ray.init` for the port (`ray start` has --dashboard-agent-listen-port).
# Guessed otherwise: as its other servers, which all find a free port, two Rays of a machine start side by side.
# Seen (exit 0 while it is so; seconds, 2 cores):
#   ray 2.60.0: ray.init with the port free 2.3, with the port taken 6.4
# Here it touches serve_app/local_ray.py, which has the agent take any port.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'ray[default]==2.60.0'
cat > "$folder/start.py" <<'PYTHON'
import time

import ray

begin = time.monotonic()
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
print(time.monotonic() - begin)
ray.shutdown()
PYTHON
RAY_TMPDIR="$folder" "$folder/venv/bin/python" - "$folder/start.py" <<'PYTHON' 2> /dev/null
import socket
import subprocess
import sys
from importlib.metadata import version


def seconds():
    ran = subprocess.run([sys.executable, sys.argv[1]], capture_output=True, text=True, check=True)
    return float(ran.stdout.split()[-1])


seconds()  # So that files are in the system's cache.
free = min(seconds() for _ in range(3))
with socket.create_server(("127.0.0.1", 52365), reuse_port=False):
    taken = min(seconds() for _ in range(3))
print(f"ray {version('ray')}: ray.init with the port free {free:.1f}, with the port taken {taken:.1f}")
raise SystemExit(not taken > free + 2.5)
PYTHON
