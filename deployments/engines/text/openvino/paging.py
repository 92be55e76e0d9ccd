"""Gives a model whose keys and values are its state paged attention instead.

The result takes the tokens of any number of requests side by side, prompts and single tokens mixed:

- `input_ids`, `position_ids`: int64 [tokens];
- `past_lens`: int32 [requests], the tokens of each that the blocks hold already;
- `subsequence_begins`: int32 [requests + 1], where each begins in `input_ids`, and the end;
- `block_indices`, `block_indices_begins`: int32, the blocks of each, and where each begins there, and the end;
- `max_context_len`: int32, the tokens of the longest, the new ones included;
- `key_cache.N`, `value_cache.N`: [blocks, heads, BLOCK, dim] of layer N, which it writes to;
- `wanted`: int64 [positions], the tokens whose logits are computed.

Its output is `logits`, float32 [positions, 1, vocabulary].
"""

from collections.abc import Sequence

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from openvino._offline_transformations import paged_attention_transformation

BLOCK = 32
"""Tokens of a block: what OpenVINO's kernels for CPUs take."""
WANTED = "wanted"
WINDOW_INPUT = 10
"""Of a paged attention node: the tokens that it attends to, 0 for all."""
ELEMENTWISE = ("Add", "Convert", "Divide", "Multiply", "Tanh")
"""What may follow the last matrix product: a cap on logits, say."""


def page(model: ov.Model, windows: Sequence[int]) -> None:
    """`windows`: of each layer. Raises what OpenVINO raises for a model that it does not know."""
    paged_attention_transformation(model)
    _set_windows(model, windows)
    _compute_wanted_logits(model)
    model.validate_nodes_and_infer_types()


def _set_windows(model: ov.Model, windows: Sequence[int]) -> None:
    """The transformation finds a sliding window in few models' masks."""
    for node in model.get_ops():
        if node.get_type_name() == "PagedAttentionExtension":
            keys = next(name for name in node.input(3).get_tensor().get_names() if name.startswith("key_cache."))
            window = ops.constant(np.int32(windows[int(keys.split(".")[1])]))
            node.input(WINDOW_INPUT).replace_source_output(window.output(0))


def _compute_wanted_logits(model: ov.Model) -> None:
    """Of a prompt few logits are wanted: the last matrix product computes these alone."""
    wanted = ops.parameter([-1], np.int64, name=WANTED)
    wanted.output(0).get_tensor().set_names({WANTED})
    port = model.output("logits").get_node().input(0)
    while port.get_source_output().get_node().get_type_name() in ELEMENTWISE:
        port = port.get_source_output().get_node().input(0)
    if port.get_source_output().get_node().get_type_name() == "MatMul":
        port = port.get_source_output().get_node().input(0)
    else:  # Whatever computes them: all are computed, and these taken.
        port = model.output("logits").get_node().input(0)
    port.replace_source_output(ops.gather(port.get_source_output(), wanted, ops.constant(np.int64(0))).output(0))
    model.add_parameters([wanted])
