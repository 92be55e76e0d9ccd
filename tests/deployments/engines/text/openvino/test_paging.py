"""Logits are computed for the wanted tokens alone, whatever follows the last matrix product."""

from collections.abc import Callable
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from deployments.engines.text.openvino.paging import WANTED, _compute_wanted_logits

Ending = Callable[[Any], Any]

ENDINGS: dict[str, Ending] = {
    "a matrix product": lambda product: product,
    "a cap": lambda product: ops.multiply(ops.tanh(ops.multiply(product, np.float32(0.1))), np.float32(10)),
    "something else": lambda product: ops.softmax(product, -1),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_only_wanted_tokens_get_logits(ending: str) -> None:
    weight = np.random.default_rng(0).standard_normal((8, 6)).astype(np.float32)
    hidden = ops.parameter([-1, 1, 6], np.float32, name="hidden")
    logits = ENDINGS[ending](ops.matmul(hidden, ops.constant(weight), False, True))
    logits.output(0).get_tensor().set_names({"logits"})
    model = ov.Model([logits], [hidden])
    given = np.random.default_rng(1).standard_normal((5, 1, 6)).astype(np.float32)
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    whole = ov.Core().compile_model(model, "CPU", options)([given])[0]
    _compute_wanted_logits(model)
    model.validate_nodes_and_infer_types()
    assert model.inputs[1].get_names() == {WANTED}
    wanted = np.array([4, 1, 1])
    found = ov.Core().compile_model(model, "CPU", options)([given, wanted])[0]
    assert np.allclose(found, whole[wanted], atol=1e-5)
    product = next(node for node in model.get_ops() if node.get_type_name() == "MatMul")
    gathered = product.input(0).get_source_output().get_node().get_type_name() == "Gather"
    assert gathered == (ending != "something else")
