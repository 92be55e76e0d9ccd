#!/bin/bash
# openvino 2026.4.1. With CACHE_DIR, `compile_model(path)` finds a cached model by the path of the .xml and when it was last
# changed. The .bin beside it, which holds the weights, is not looked at: weights that are replaced alone (trained further,
# copied by a tool that leaves equal files as they are) are not read, and the old model answers, silently. A model that was
# read first (`read_model`) is found by its content: its new weights are computed.
# Guessed otherwise: that the two ways of compiling one file keep one rule, and that a changed file is never answered for.
# Seen (exit 0 while it is so):
#   openvino 2026.4.1: weights 1 -> 2: compile_model(path) computes 1 then 1, compile_model(read_model(path)) 1 then 2
# Here it touches deployments/engines/vision/openvino_cache.py, which keeps compiled models by the content of their weights
# and never sets CACHE_DIR.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check openvino==2026.4.1
export HOME="$folder"
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import importlib.metadata
import os
import sys
import time
from pathlib import Path

import numpy as np
import openvino as ov
from openvino import opset13 as ops


def save(path: Path, weight: float) -> None:
    x = ops.parameter([1, 64], np.float32)
    product = ops.matmul(x, ops.constant(np.full((64, 64), weight / 64, np.float32)), False, False)
    ov.save_model(ov.Model([product], [x]), path, compress_to_fp16=False)


def computed(path: Path, cache: Path, read_first: bool) -> int:
    core = ov.Core()
    core.set_property({"CACHE_DIR": str(cache)})
    compiled = core.compile_model(core.read_model(path) if read_first else path, "CPU")
    return int(compiled(np.ones((1, 64), np.float32))[0][0, 0])


folder = Path(sys.argv[1])
seen = {}
for read_first in (False, True):
    model, trained_further = folder / f"{read_first}.xml", folder / "further.xml"
    save(model, 1)
    save(trained_further, 2)
    before = computed(model, folder / f"cache{read_first}", read_first)
    later = time.time() + 60
    os.replace(trained_further.with_suffix(".bin"), model.with_suffix(".bin"))
    os.utime(model.with_suffix(".bin"), (later, later))
    seen[read_first] = before, computed(model, folder / f"cache{read_first}", read_first)
print(
    f"openvino {importlib.metadata.version('openvino')}: weights 1 -> 2: compile_model(path) computes {seen[False][0]} then "
    f"{seen[False][1]}, compile_model(read_model(path)) {seen[True][0]} then {seen[True][1]}"
)
raise SystemExit(seen != {False: (1, 1), True: (1, 2)})
PYTHON
