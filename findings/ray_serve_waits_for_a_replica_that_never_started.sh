#!/bin/bash
# Ray Serve 2.60.0. An application whose replica found no room, so that its process never started, is deleted only once
# `graceful_shutdown_timeout_s` has passed: as long as a replica with requests may take. One whose replica runs and has
# nothing to do is deleted within seconds, whatever that time is.
# Guessed otherwise: a replica that has no process has no request to wait for, and ends at once. Who lets long streams end (an
# hour, say) has deletions that take an hour, and Ray's autoscaler looks for room for the replica meanwhile.
# Seen (exit 0 while it is so; seconds, graceful_shutdown_timeout_s=15):
#   ray 2.60.0: a replica that runs: 3.0; one that never started: 16.1
# Here it touches docs/dispatch.md, which says so, and tests/cluster/test_cluster.py.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'ray[serve]==2.60.0'
RAY_TMPDIR="$folder" "$folder/venv/bin/python" - <<'PYTHON' 2> /dev/null
import time

import ray
from ray import serve

GRACE_S = 15
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
serve.start(proxy_location="Disabled")


def deleted_after(cpus):
    @serve.deployment(ray_actor_options={"num_cpus": cpus}, graceful_shutdown_timeout_s=GRACE_S)
    class Replica:
        pass

    target = serve.RunTarget(Replica.bind(), name="app", route_prefix=None)
    serve.run_many([target], wait_for_applications_running=False)
    wanted = "RUNNING" if cpus < 2 else "DEPLOYING"
    since = time.monotonic()
    while time.monotonic() - since < 5 or serve.status().applications["app"].status != wanted:
        time.sleep(0.2)
    begin = time.monotonic()
    serve.delete("app")
    return time.monotonic() - begin


ran, never_started = deleted_after(0.1), deleted_after(64)
print(f"ray {ray.__version__}: a replica that runs: {ran:.1f}; one that never started: {never_started:.1f}")
ray.shutdown()
raise SystemExit(not (ran < GRACE_S - 5 and never_started > GRACE_S - 2))
PYTHON
