#!/bin/bash
# ray[serve] 2.60.0. Two autoscaling policies of one module, named by import path, do not see each other's module globals, though
# one controller runs both: each policy's module is pickled by value, so each has a copy.
# Guessed otherwise: a name such as "policies:of_workers" is imported in the controller, where a module exists once.
# Seen (exit 0 while it is so):
#   ray 2.60.0: the first policy wrote {'seen': 1}, the second reads {}
# Here it touches serve_app/autoscaling.py, whose policies import the module that they share.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'ray[serve]==2.60.0'
cat > "$folder/policies.py" <<'PYTHON'
SHARED = {}


def writes(context):
    SHARED["seen"] = 1
    return dict(SHARED)


def reads(context):
    return dict(SHARED)
PYTHON
cd "$folder"
PYTHONPATH="$folder" "$folder/venv/bin/python" - <<'PYTHON'
import ray
from ray.serve.config import AutoscalingPolicy

writes, reads = (AutoscalingPolicy(policy_function=f"policies:{name}") for name in ("writes", "reads"))
for policy in (writes, reads):
    policy.serialize_policy()
wrote, read = writes.get_policy()(None), reads.get_policy()(None)
print(f"ray {ray.__version__}: the first policy wrote {wrote}, the second reads {read}")
raise SystemExit(not (wrote == {"seen": 1} and read == {}))
PYTHON
