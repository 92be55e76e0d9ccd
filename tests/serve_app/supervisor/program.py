"""A runtime without Ray under the supervisor: it starts two processes, one of which loses its parent, and waits.

python -m tests.serve_app.supervisor.program HOW
"""

import os
import socket
import subprocess
import sys
from functools import partial

from serve_app.supervisor.deaths import Deaths
from serve_app.supervisor.link import Orders, Report
from serve_app.supervisor.supervisor import Supervisor

ORPHAN = "setsid sleep 1000 > /dev/null 2>&1 & echo $!"


def runtime(how: str, anew: bool, link: socket.socket) -> int:
    orders = Orders(link, lambda: print("reload", flush=True))
    if how == "refuses":
        orders.report(Report(failed="the port is taken", again=False))
        return 0
    raylet = subprocess.Popen(["sleep", "1000"])
    orphan = int(subprocess.run(["sh", "-c", ORPHAN], stdout=subprocess.PIPE, check=True).stdout)
    print("started", anew, os.getpid(), os.getppid(), raylet.pid, orphan, flush=True)
    orders.report(Report(watch={"raylet": raylet.pid}, ready=True))
    if how == "dies":
        return 0
    orders.idle = True
    orders.stop.wait()
    print("in good order", flush=True)
    return 0


if __name__ == "__main__":
    silent_s = 0.5 if sys.argv[1] == "silent" else 1000
    sys.exit(Supervisor(partial(runtime, sys.argv[1]), None, Deaths((0, 0)), silent_s).serve())
