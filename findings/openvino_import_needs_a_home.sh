#!/bin/bash
# openvino 2026.4.1. `import openvino` raises RuntimeError where HOME is not set and the system does not know the user, as in
# a container that runs under any user id. Its telemetry asks for the home before it asks whether it may send anything.
# Guessed otherwise: that a library that computes can be imported without a home, as torch and transformers can.
# Seen (exit 0 while it is so):
#   openvino 2026.4.1: RuntimeError: Could not determine home directory.
# Here it touches deployments/replica/model_replica.py, which sets HOME for its process then.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check openvino==2026.4.1
env -i "$folder/venv/bin/python" - <<'PYTHON'
import importlib.metadata
import pwd


def unknown(uid: int) -> pwd.struct_passwd:
    raise KeyError(uid)


pwd.getpwuid = unknown  # As for a user id that is not in /etc/passwd.
try:
    import openvino
except RuntimeError as failure:
    print(f"openvino {importlib.metadata.version('openvino')}: RuntimeError: {failure}")
else:
    raise SystemExit(f"openvino {openvino.__version__} can be imported")
PYTHON
