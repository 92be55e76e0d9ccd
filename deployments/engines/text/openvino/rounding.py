"""Weights in fewer bits: whole numbers with scales, which OpenVINO multiplies with as they are."""

from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops

STEPS = 127
"""In 8 bits, from 0 to the largest weight of an output."""
LEVELS = 16
"""In 4 bits, from the least to the largest weight of a group."""
GROUPS = (64, 32)
"""Inputs of an output that share a scale and a zero point in 4 bits: the first that divides their number."""
TINY = np.finfo(np.float32).tiny

Array = np.ndarray[Any, Any]


def round_weights(model: ov.Model, dtype: str) -> None:
    """Weights of matrix products, and embeddings.

    "int8": 8 bits, one scale for each output or row. "int4": 4 bits, a scale and a zero point for each group of inputs;
    8 bits for embeddings, for the last product, whose errors nothing evens out, and where no group fits.
    """
    products = [node for node in model.get_ordered_ops() if _is_product(node)]
    eights: dict[str, tuple[Any, Any]] = {}  # By weight: embeddings may be those of the last product, too.

    def in_8_bits(weight: Any) -> tuple[Any, Any]:
        if (name := weight.get_name()) not in eights:
            eights[name] = _in_8_bits(weight.data.astype(np.float32))
        return eights[name]

    for product in products:
        port = product.input(1)
        weight = port.get_source_output().get_node()
        shape = weight.get_output_shape(0)
        group = next((size for size in GROUPS if shape[-1] % size == 0), None)
        if dtype == "int4" and group and len(shape) == 2 and product is not products[-1]:
            rounded = _in_4_bits(weight.data.astype(np.float32).reshape(shape[0], -1, group))
            rounded = ops.reshape(rounded, ops.constant(np.array(shape)), False)
        else:
            codes, scales = in_8_bits(weight)
            rounded = ops.multiply(ops.convert(codes, "f32"), scales)
        port.replace_source_output(rounded.output(0))
    for node in [node for node in model.get_ops() if _is_embedding(node)]:
        weight, rows, axis = (port.get_source_output() for port in node.inputs())
        codes, scales = (ops.gather(part, rows, axis) for part in in_8_bits(weight.get_node()))
        for user in node.output(0).get_target_inputs():
            user.replace_source_output(ops.multiply(ops.convert(codes, "f32"), scales).output(0))
    model.validate_nodes_and_infer_types()


def _is_product(node: Any) -> bool:
    """By a weight [outputs, inputs]."""
    if node.get_type_name() != "MatMul" or not node.get_attributes()["transpose_b"]:
        return False
    return bool(node.input(1).get_source_output().get_node().get_type_name() == "Constant")


def _is_embedding(node: Any) -> bool:
    if node.get_type_name() != "Gather":
        return False
    weight = node.input(0).get_source_output()
    is_matrix = weight.get_node().get_type_name() == "Constant" and len(weight.get_shape()) == 2
    return is_matrix and bool(weight.get_element_type() == ov.Type.f32)


def _in_8_bits(values: Array) -> tuple[Any, Any]:
    """Constants: whole numbers, and what to multiply each output's with."""
    scales = np.maximum(np.abs(values).max(1, keepdims=True), TINY * STEPS) / np.float32(STEPS)
    return ops.constant(np.rint(values / scales).astype(np.int8)), ops.constant(scales)


def _in_4_bits(groups: Array) -> Any:
    """Of weights [outputs, groups, inputs], with 0 among the levels of each group."""
    low, high = np.minimum(groups.min(2, keepdims=True), 0), np.maximum(groups.max(2, keepdims=True), 0)
    scales = np.maximum(high - low, TINY * LEVELS) / np.float32(LEVELS - 1)
    zeros = np.rint(-low / scales)
    codes = np.clip(np.rint(groups / scales) + zeros, 0, LEVELS - 1)
    shifted = ops.subtract(ops.convert(_packed(codes), "f32"), ops.convert(_packed(zeros), "f32"))
    return ops.multiply(shifted, ops.constant(scales))


def _packed(codes: Array) -> Any:
    """A constant with two numbers in each byte, the first one in its lower half."""
    pairs = np.append(codes.astype(np.uint8), np.zeros(codes.size % 2, np.uint8)).reshape(-1, 2)
    tensor = ov.Tensor(ov.Type.u4, ov.Shape(list(codes.shape)))
    tensor.data.reshape(-1)[:] = pairs[:, 0] | pairs[:, 1] << 4
    return ops.constant(tensor)
