#!/bin/bash
# openvino 2026.4.1. `openvino.helpers.pack_data` packs 4-bit values with the first of two in the upper half of the byte. The
# runtime reads the lower half first: a constant that is made of packed weights has each two neighbours swapped, silently.
# Guessed otherwise: that what the package's own helper packs for a type is what a tensor of that type holds.
# Seen (exit 0 while it is so):
#   openvino 2026.4.1: packed [0 1 2 3 4 5 6 7], computed [1 0 3 2 5 4 7 6]
# Here it touches deployments/engines/text/openvino/rounding.py, which packs 4-bit weights itself, the first in the lower half.
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
from openvino.helpers import pack_data

values = np.arange(8, dtype=np.uint8)
packed = pack_data(values, ov.Type.u4)  # Kept: a tensor of it holds no reference.
tensor = ov.Tensor(packed, [8], ov.Type.u4)
zeros = ops.parameter([8], np.float32)
model = ov.Model([ops.add(ops.convert(ops.constant(tensor), "f32"), zeros)], [zeros])
computed = ov.Core().compile_model(model, "CPU")(np.zeros(8, np.float32))[0].astype(np.uint8)
print(f"openvino {importlib.metadata.version('openvino')}: packed {values}, computed {computed}")
raise SystemExit(not np.array_equal(computed, values.reshape(4, 2)[:, ::-1].flatten()))
PYTHON
