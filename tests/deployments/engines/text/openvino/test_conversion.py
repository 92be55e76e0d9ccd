"""Windows are the layers', products of one input become one."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from deployments.engines.text.openvino.conversion import merge_products, windows


def test_a_window_is_that_of_the_layers_kind() -> None:
    mixed = ["full_attention", "sliding_attention"]
    assert windows(SimpleNamespace(num_hidden_layers=2, sliding_window=8, layer_types=mixed)) == [0, 8]
    assert windows(SimpleNamespace(num_hidden_layers=2, sliding_window=8)) == [8, 8]
    assert windows(SimpleNamespace(num_hidden_layers=2)) == [0, 0]
    assert windows(SimpleNamespace(num_hidden_layers=2, sliding_window=None, layer_types=mixed)) == [0, 0]


def test_products_of_one_input_become_one_unless_a_bias_is_added() -> None:
    draw = np.random.default_rng(0)
    x, other = ops.parameter([-1, 8], np.float32), ops.parameter([-1, 8], np.float32)

    def product(of: Any, outputs: int) -> Any:
        weight = draw.standard_normal((outputs, 8)).astype(np.float32)
        return ops.matmul(of, ops.constant(weight), False, True)

    def products() -> int:
        return sum(one.get_type_name() == "MatMul" for one in model.get_ops())

    together = [product(x, 4), product(x, 2), product(x, 3)]
    biased = [ops.add(product(x, 5), ops.constant(np.ones(5, np.float32))) for _ in range(2)]
    outputs = [*together, *biased, product(other, 4)]
    model = ov.Model([ops.relu(one) for one in outputs], [x, other])
    given = [draw.standard_normal((3, 8)).astype(np.float32) for _ in range(2)]
    options = {"INFERENCE_PRECISION_HINT": "f32"}

    def computed() -> list[Any]:
        return list(ov.Core().compile_model(model, "CPU", options)(given).values())

    before = computed()
    assert products() == 6
    merge_products(model)
    assert products() == 4
    for one, was in zip(computed(), before, strict=True):
        np.testing.assert_allclose(one, was, rtol=1e-5, atol=1e-6)
