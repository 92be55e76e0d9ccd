"""A window is that of the layer; 8-bit weights are the plain ones but for rounding."""

from types import SimpleNamespace

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from deployments.engines.text.openvino.conversion import round_weights, windows


def test_a_window_is_that_of_the_layers_kind() -> None:
    mixed = ["full_attention", "sliding_attention"]
    assert windows(SimpleNamespace(num_hidden_layers=2, sliding_window=8, layer_types=mixed)) == [0, 8]
    assert windows(SimpleNamespace(num_hidden_layers=2, sliding_window=8)) == [8, 8]
    assert windows(SimpleNamespace(num_hidden_layers=2)) == [0, 0]
    assert windows(SimpleNamespace(num_hidden_layers=2, sliding_window=None, layer_types=mixed)) == [0, 0]


def test_rounded_weights_are_a_quarter_as_large_and_differ_by_half_a_step_at_most() -> None:
    draw = np.random.default_rng(0)
    weight = draw.standard_normal((16, 64)).astype(np.float32) * np.logspace(-3, 2, 16)[:, None].astype(np.float32)
    weight[3] = 0
    x = ops.parameter([-1, 64], np.float32)
    model = ov.Model([ops.matmul(x, ops.constant(weight), False, True)], [x])
    round_weights(model)
    assert sum(one.get_byte_size() for one in model.get_ops() if one.get_type_name() == "Constant") < weight.nbytes / 3
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    found = ov.Core().compile_model(model, "CPU", options)(np.eye(64, dtype=np.float32))[0].T
    assert (np.abs(found - weight) <= np.abs(weight).max(1, keepdims=True) / 254 + 1e-6).all()
