#!/bin/bash
# ray[serve] 2.60.0 with RAY_SERVE_ENABLE_HA_PROXY=1. An application runs and answers. Its HAProxyManager actor is killed; Serve
# starts another one, whose HAProxy listens before it was told of any application, and answers 404 "Path '/' not found".
# Guessed otherwise: that it does not listen yet, or answers 503. A 404 is final: callers who try a refused or a 503 request again
# give up, for a path that answered a second ago. HAProxyManager has a method `serving` that waits; its start does not.
# Seen (exit 0 while it is so):
#   ray 2.60.0: before 200, after the kill also 404, in the end 200
# Here it touches serve_app/http/haproxy_config.py: without any application the answer is 503 `unavailable`.
set -eu
folder=$(mktemp -d /tmp/fXXXXXX); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "ray[serve]==2.60.0"
export HOME="$folder" RAY_SERVE_ENABLE_HA_PROXY=1 RAY_USAGE_STATS_ENABLED=0
export RAY_SERVE_HAPROXY_METRICS_PORT=19101 RAY_SERVE_HAPROXY_STATS_PORT=19102
"$folder/venv/bin/python" - <<'PYTHON'
import time
import urllib.error
import urllib.request

import ray
from ray import serve


@serve.deployment
class Hello:
    def __call__(self, request: object) -> str:
        return "hello"


def status() -> int | None:
    try:
        return urllib.request.urlopen("http://127.0.0.1:18765/", timeout=5).status
    except urllib.error.HTTPError as answer:
        return answer.code
    except OSError:
        return None


ray.init(address="local", num_cpus=4, include_dashboard=False, logging_level="ERROR")
serve.start(http_options={"host": "127.0.0.1", "port": 18765})
serve.run(Hello.bind())
until = time.monotonic() + 60
while (before := status()) != 200 and time.monotonic() < until:
    time.sleep(0.05)
names = [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)]
(name,) = (name for name in names if "PROXY" in name and "fallback" not in name)
ray.kill(ray.get_actor(name, namespace="serve"))
seen, until, answered_since = set(), time.monotonic() + 120, None
while time.monotonic() < until:
    now = status()
    seen.add(now)
    answered_since = (answered_since or time.monotonic()) if now == 200 else None
    if 404 in seen and answered_since and time.monotonic() - answered_since > 3:
        break
    time.sleep(0.01)
also = 404 in seen
print(f"ray {ray.__version__}: before {before}, after the kill {'also' if also else 'never'} 404, in the end {now}")
raise SystemExit(not (before == now == 200 and also))
PYTHON
