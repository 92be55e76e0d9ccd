"""Weights in fewer bits are the plain ones but for rounding."""

from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from deployments.engines.text.openvino.rounding import round_weights


def constant_bytes(model: ov.Model) -> int:
    return sum(one.get_byte_size() for one in model.get_ops() if one.get_type_name() == "Constant")


def computed(model: ov.Model, given: Any) -> Any:
    return ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(given)[0]


def test_rounded_weights_are_a_quarter_as_large_and_differ_by_half_a_step_at_most() -> None:
    draw = np.random.default_rng(0)
    weight = draw.standard_normal((16, 64)).astype(np.float32) * np.logspace(-3, 2, 16)[:, None].astype(np.float32)
    weight[3] = 0
    x = ops.parameter([-1, 64], np.float32)
    model = ov.Model([ops.matmul(x, ops.constant(weight), False, True)], [x])
    round_weights(model, "int8")
    assert constant_bytes(model) < weight.nbytes / 3
    found = computed(model, np.eye(64, dtype=np.float32)).T
    assert (np.abs(found - weight) <= np.abs(weight).max(1, keepdims=True) / 254 + 1e-6).all()


@pytest.mark.parametrize(("inputs", "group"), [(128, 64), (96, 32), (33, None)])
def test_weights_in_4_bits_differ_by_a_step_of_their_group_at_most(inputs: int, group: int | None) -> None:
    draw = np.random.default_rng(0)
    weight = draw.standard_normal((17, inputs)).astype(np.float32) * np.logspace(-3, 2, 17)[:, None].astype(np.float32)
    weight[3], weight[4, :64] = 0, 7
    x = ops.parameter([-1, inputs], np.float32)
    last = ops.constant(np.eye(17, dtype=np.float32))
    model = ov.Model([ops.matmul(ops.matmul(x, ops.constant(weight), False, True), last, False, True)], [x])
    round_weights(model, "int4")
    kinds = {one.get_element_type().get_type_name() for one in model.get_ops() if one.get_type_name() == "Constant"}
    assert ("u4" in kinds) == (group is not None)
    assert "i8" in kinds, "the last product keeps 8 bits"
    found = computed(model, np.eye(inputs, dtype=np.float32)).T
    groups = weight.reshape(17, -1, group or inputs)
    steps = (np.maximum(groups.max(2), 0) - np.minimum(groups.min(2), 0)) / 15
    off = np.abs(found - weight).reshape(groups.shape).max(2)
    assert (off <= 1.05 * steps + np.abs(groups).max() / 100).all()


def test_embeddings_are_rounded_once_where_the_last_product_has_them_too() -> None:
    table = np.random.default_rng(0).standard_normal((50, 64)).astype(np.float32)
    shared = ops.constant(table)
    ids = ops.parameter([-1], np.int64)
    rows = ops.gather(shared, ids, ops.constant(np.int64(0)))
    model = ov.Model([ops.matmul(rows, shared, False, True)], [ids])
    round_weights(model, "int8")
    assert constant_bytes(model) < table.nbytes / 3
    found = computed(model, np.arange(50))
    np.testing.assert_allclose(found, table @ table.T, atol=np.abs(table @ table.T).max() / 50)
