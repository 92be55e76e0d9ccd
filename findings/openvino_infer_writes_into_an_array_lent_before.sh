#!/bin/bash
# openvino 2026.4.1. `InferRequest.infer(inputs)` copies its inputs, as its documentation says. After a call with
# `share_inputs=True` the request still reads from that call's array, and a plain call copies its own input there: the array of
# the earlier caller is overwritten, silently. Where the second input is larger, the plain call raises "Could set new shape".
# Guessed otherwise: that `share_inputs` is of one call, and that an array which was only lent to be read is never written to.
# Seen (exit 0 while it is so):
#   openvino 2026.4.1: lent [1. 1. 1.], after a plain call with [7. 7.]: [7. 7. 1.]; a larger plain call: RuntimeError
# Here it touches deployments/engines/openvino_model.py: whoever shares arrays has an infer request of its own.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check openvino==2026.4.1
export HOME="$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import importlib.metadata

import numpy as np
import openvino as ov
from openvino import opset13 as ops

values = ops.parameter([-1], np.float32)
compiled = ov.Core().compile_model(ov.Model([ops.relu(values)], [values]), "CPU")
request = compiled.create_infer_request()
lent = np.ones(3, np.float32)
request.infer([lent], share_inputs=True)
plain = np.full(2, 7, np.float32)
request.infer([plain])
seen = lent.copy()

request = compiled.create_infer_request()
request.infer([np.ones(2, np.float32)], share_inputs=True)
try:
    request.infer([np.ones(3, np.float32)])
    larger = "answered"
except RuntimeError as error:
    larger = type(error).__name__
print(
    f"openvino {importlib.metadata.version('openvino')}: lent [1. 1. 1.], after a plain call with {plain}: {seen}; "
    f"a larger plain call: {larger}"
)
raise SystemExit(not (seen.tolist() == [7, 7, 1] and larger == "RuntimeError"))
PYTHON
