#!/bin/bash
# openvino 2026.4.1, torch 2.13.0. The same product of queries and keys, [b, 6, 1, 64] by [b, 6, 64, n], b and n dynamic, reaches
# OpenVINO by torch.jit.trace or by torch.export. Exported, `torch.matmul` is two Broadcast nodes before the MatMul: each call
# copies all keys, and takes several times as long. `torch.einsum` is the other way round: traced it is an Einsum node, as slow,
# exported a MatMul alone.
# Guessed otherwise: that the graph of torch.export is at least as good as a trace, that a Broadcast to the shape which is there
# already is dropped, and that matmul is the form for a product and einsum the convenient one.
# Seen (exit 0 while it is so; the times are of one core and not checked):
#   openvino 2026.4.1, torch 2.13.0+cpu
#   Matmul traced: 0 Broadcast, 0 Einsum, 0.12 ms
#   Matmul exported: 2 Broadcast, 0 Einsum, 0.83 ms
#   Einsum traced: 0 Broadcast, 1 Einsum, 0.93 ms
#   Einsum exported: 0 Broadcast, 0 Einsum, 0.13 ms
# Here it touches deployments/engines/audio/openvino_convert.py: of what Whisper's decoder multiplies at each step nothing is copied,
# which a test counts.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 openvino==2026.4.1 numpy==2.4.6 \
  packaging==26.3
export HOME="$folder"
"$folder/venv/bin/python" - <<'PYTHON' 2> /dev/null
import collections
import importlib.metadata
import statistics
import time

import openvino as ov
import torch


class Matmul(torch.nn.Module):
    def forward(self, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        return torch.matmul(queries, keys)


class Einsum(torch.nn.Module):
    def forward(self, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bhqd,bhdk->bhqk", queries, keys)


queries, keys = torch.randn(4, 6, 1, 64), torch.randn(4, 6, 64, 1500)
automatic = torch.export.Dim.AUTO


def converted(module: torch.nn.Module, way: str) -> ov.Model:
    if way == "traced":
        shapes = [[-1, 6, 1, 64], [-1, 6, 64, -1]]
        return ov.convert_model(module, example_input=(queries, keys), input=shapes)
    shapes = ({0: automatic}, {0: automatic, 3: automatic})
    return ov.convert_model(torch.export.export(module, (queries, keys), dynamic_shapes=shapes))


def milliseconds(model: ov.Model) -> float:
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    request = ov.Core().compile_model(model, "CPU", options).create_infer_request()
    for index, tensor in enumerate((queries, keys)):
        request.set_input_tensor(index, ov.Tensor(tensor.numpy(), shared_memory=True))
    times = []
    for _ in range(300):
        begun = time.perf_counter()
        request.infer()
        times.append(time.perf_counter() - begun)
    return statistics.median(times) * 1e3


print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("openvino", "torch")))
seen = {}
for module in (Matmul(), Einsum()):
    for way in ("traced", "exported"):
        model = converted(module, way)
        kinds = collections.Counter(node.get_type_name() for node in model.get_ops())
        seen[type(module).__name__, way] = kinds["Broadcast"], kinds["Einsum"]
        print(f"{type(module).__name__} {way}: {kinds['Broadcast']} Broadcast, {kinds['Einsum']} Einsum, {milliseconds(model):.2f} ms")
expected = {("Matmul", "traced"): (0, 0), ("Matmul", "exported"): (2, 0)}
expected |= {("Einsum", "traced"): (0, 1), ("Einsum", "exported"): (0, 0)}
raise SystemExit(seen != expected)
PYTHON
