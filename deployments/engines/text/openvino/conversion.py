"""Turns a causal language model of transformers into an OpenVINO model whose keys and values are its state.

Nothing is fetched, and nothing is reported: this calls OpenVINO's frontend directly. `openvino.convert_model` sends
telemetry for each conversion.
"""

import warnings
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino as ov
import torch
from openvino import opset13 as ops
from openvino._offline_transformations import apply_make_stateful_transformation, apply_moc_transformations
from openvino.frontend import FrontEndManager
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

MERGED_BYTES = 1 << 24
"""Of the weights of one product. Larger ones take much longer to read than a product costs beside."""


def convert(model: PreTrainedModel) -> ov.Model:
    """In float32. Raises whatever torch and OpenVINO raise for a model that they cannot take."""
    shapes = _cache_shapes(model)
    converted = _traced(model, shapes)
    merge_products(converted)
    _make_stateful(converted, len(shapes) // 2)
    return converted


@torch.inference_mode()
def _cache_shapes(model: PreTrainedModel) -> list[tuple[int, int]]:
    """Heads and dim of the keys and of the values of each layer, one after the other."""
    cache = DynamicCache()
    model(input_ids=torch.zeros(1, 2, dtype=torch.long), past_key_values=cache, use_cache=True)
    layers: list[Any] = cache.layers
    return [(tensor.shape[1], tensor.shape[3]) for layer in layers for tensor in (layer.keys, layer.values)]


class _Step(torch.nn.Module):
    """Tokens [n, t], mask [n, past + t], positions [n, t], keys and values [n, heads, past, dim] of each layer
    -> logits, keys and values with the new ones."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, *past: Tensor) -> Any:
        cache = DynamicCache()
        layers = [_known(keys, values) for keys, values in zip(past[::2], past[1::2], strict=True)]
        cache.layers = list(layers)
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        new = (tensor for layer in layers for tensor in (layer.keys, layer.values))
        return (output.logits, *new)


def _known(keys: Tensor, values: Tensor) -> Any:
    layer: Any = DynamicLayer()
    layer.keys, layer.values, layer.is_initialized = keys, values, True
    layer.dtype, layer.device = keys.dtype, keys.device
    return layer


def _traced(model: PreTrainedModel, shapes: Sequence[tuple[int, int]]) -> ov.Model:
    past, new = 5, 3
    example = (
        torch.zeros(2, new, dtype=torch.long),
        torch.ones(2, past + new, dtype=torch.long),
        torch.arange(past, past + new)[None].expand(2, -1).contiguous(),
        *(torch.randn(2, heads, past, dim) for heads, dim in shapes),
    )
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of branches that the trace cannot see
        decoder = TorchScriptPythonDecoder(_Step(model), example_input=example)
        frontend = FrontEndManager().load_by_framework("pytorch")
        converted = frontend.convert(frontend.load(decoder))
    apply_moc_transformations(converted, cf=False)  # as `openvino.convert_model` does
    names = _cache_names(len(shapes) // 2)
    tokens = {name: ([-1, -1], ov.Type.i64) for name in ("input_ids", "attention_mask", "position_ids")}
    known = {
        f"past.{name}": ([-1, heads, -1, dim], ov.Type.f32) for name, (heads, dim) in zip(names, shapes, strict=True)
    }
    for port, (name, (shape, element)) in zip(converted.inputs, (tokens | known).items(), strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_partial_shape(ov.PartialShape(shape))
        port.get_node().set_element_type(element)
    for port, name in zip(converted.outputs, ["logits", *(f"new.{name}" for name in names)], strict=True):
        port.get_tensor().set_names({name})
    converted.validate_nodes_and_infer_types()
    return converted


def _cache_names(layers: int) -> list[str]:
    return [f"{number}.{kind}" for number in range(layers) for kind in ("key", "value")]


def _make_stateful(model: ov.Model, layers: int) -> None:
    """The form in which the transformation knows keys and values: gathered by beam, a state, empty at first."""
    beams = ops.parameter([-1], np.int32, name="beam_idx")
    beams.output(0).get_tensor().set_names({"beam_idx"})
    model.add_parameters([beams])
    for port in model.inputs:
        if any(name.startswith("past.") for name in port.get_names()):
            users = port.get_node().output(0).get_target_inputs()
            gathered = ops.gather(port.get_node(), beams, ops.constant(np.int64(0)))
            for user in users:
                user.replace_source_output(gathered.output(0))
    model.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(model, {f"past.{name}": f"new.{name}" for name in _cache_names(layers)})
    sizes = ops.shape_of(model.input("input_ids"), output_type="i64")
    rows = ops.gather(sizes, ops.constant(np.array([0])), ops.constant(np.int64(0)))
    for node in model.get_ops():
        if node.get_type_name() == "ReadValue":
            dims = [dim.get_min_length() for dim in list(node.get_output_partial_shape(0))[1:]]
            shape = ops.concat([rows, *(ops.constant(np.array([dim])) for dim in dims)], 0)
            node.set_arguments([ops.broadcast(ops.constant(np.float32(0)), shape).output(0)])
    model.validate_nodes_and_infer_types()


def windows(config: Any) -> list[int]:
    """Of each layer the tokens that it attends to, 0 for all."""
    window = getattr(config, "sliding_window", None) or 0
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * config.num_hidden_layers
    return [window if kind == "sliding_attention" else 0 for kind in kinds]


def merge_products(model: ov.Model) -> None:
    """Matrix products of one input (queries, keys and values; gate and up) become one: each product of a step has both
    threads wait for each other."""
    groups: defaultdict[tuple[str, int], list[Any]] = defaultdict(list)
    for node in model.get_ordered_ops():
        if _is_plain_product(node):
            source = node.input(0).get_source_output()
            groups[source.get_node().get_name(), source.get_index()].append(node)
    for nodes in groups.values():
        weights = [_weight(node).data for node in nodes]
        if len(nodes) == 1 or sum(weight.nbytes for weight in weights) > MERGED_BYTES:
            continue
        source = nodes[0].input(0).get_source_output()
        merged = ops.matmul(source, ops.constant(np.concatenate(weights)), False, True)
        sizes = np.array([len(weight) for weight in weights])
        parts = ops.variadic_split(merged, ops.constant(np.int64(-1)), ops.constant(sizes))
        for node, part in zip(nodes, parts.outputs(), strict=True):
            for user in node.output(0).get_target_inputs():
                user.replace_source_output(part)
    model.validate_nodes_and_infer_types()


def _is_plain_product(node: Any) -> bool:
    """By a float32 weight [outputs, inputs], without a bias: OpenVINO computes that with the product."""
    if node.get_type_name() != "MatMul" or not node.get_attributes()["transpose_b"]:
        return False
    weight = _weight(node)
    is_matrix = weight.get_type_name() == "Constant" and len(weight.get_output_shape(0)) == 2
    users = [user.get_node().get_type_name() for user in node.output(0).get_target_inputs()]
    return is_matrix and weight.get_element_type() == ov.Type.f32 and "Add" not in users


def _weight(product: Any) -> Any:
    return product.input(1).get_source_output().get_node()
