"""Compiles the decode step of a model into a library on disk. Runs as a program of its own, at the lowest priority.

A process of its own, since tracing and compiling would hold up the thread that serves. The library holds no weights:
it depends on the configuration alone, and whoever loads it lends it the tensors of the model that serves already.
"""

import json
import os
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.initialization import no_init_weights

from deployments.engines.text_attention import use_step_attention
from deployments.engines.text_cache import StepCache, step_mask
from deployments.engines.text_int8 import quantise_linears
from deployments.engines.text_linear import swap_linears

MOST_ROWS = 1_024
MOST_COLUMNS = 1 << 20
NOT_ALONE = b"aoti_torch_proxy_executor_call_function"


class StepModule(nn.Module):
    """One decode step: tokens and positions [rows], keys and values [rows, heads, columns, dim] for each layer.

    Gives logits float [rows, vocabulary], the best token and whether all is finite [rows]; writes into the cache.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, tokens: Tensor, positions: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        logits = self.model(
            input_ids=tokens[:, None],
            attention_mask=step_mask(positions, keys[0].shape[2], keys[0].dtype),
            position_ids=positions[:, None],
            past_key_values=StepCache(keys, values, positions),
            use_cache=True,
        ).logits[:, -1]
        logits = logits.float()
        value, best = logits.max(-1)  # NaN counts as the maximum, so one check sees every bad row.
        return logits, best, value.isfinite()


def compile_step(model: PreTrainedModel, shapes: Sequence[tuple[int, int]], single: bool, library: Path) -> None:
    """Write the step of a model for one row, or for any number from two on. `shapes`: heads and dim of each layer."""
    rows, columns = (1 if single else 4), 64
    tokens = torch.zeros(rows, dtype=torch.long)
    keys = [torch.zeros(rows, heads, columns, dim, dtype=model.dtype) for heads, dim in shapes]
    values = [torch.zeros_like(key) for key in keys]
    any_columns = torch.export.Dim("columns", min=2, max=MOST_COLUMNS)
    any_rows = None if single else torch.export.Dim("rows", min=2, max=MOST_ROWS)
    per_row = {} if single else {0: any_rows}
    per_layer = [{**per_row, 2: any_columns}] * len(shapes)
    with torch.no_grad():
        program = torch.export.export(
            StepModule(model),
            (tokens, tokens.clone(), keys, values),
            dynamic_shapes=(per_row, per_row, per_layer, per_layer),
            strict=False,
        )
    package = library.with_suffix(".pt2")
    torch._inductor.aoti_compile_and_package(
        program, package_path=str(package), inductor_configs={"aot_inductor.package_constants_in_so": False}
    )
    with zipfile.ZipFile(package) as packed:
        code = packed.read(next(name for name in packed.namelist() if name.endswith(".so")))
    if NOT_ALONE in code:
        raise NotImplementedError("the step calls operations that only torch's own loader can call")
    library.write_bytes(code)


def main(
    niceness: str,
    folder: str,
    dtype: str,
    attention: str,
    linears: str,
    shapes: str,
    rows: str,
    threads: str,
    library: str,
) -> None:
    os.nice(int(niceness))
    use_step_attention()
    torch.set_num_threads(int(threads))
    # Code for as many threads as the machine has takes fewer, too. Code for any other number takes no other.
    os.cpu_count = lambda: int(threads)
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with no_init_weights():  # Memory that nobody touches costs nothing.
        model = AutoModelForCausalLM.from_config(
            config, dtype=getattr(torch, dtype), attn_implementation=attention, trust_remote_code=False
        )
    if linears == "int8":
        quantise_linears(model)
    elif linears != "plain":  # Whoever loads the library lends packed weights.
        swap_linears(model, json.loads(linears), "blocks" if rows == "blocks" else "plain")
    sizes = [(int(heads), int(dim)) for heads, dim in (shape.split("x") for shape in shapes.split(","))]
    compile_step(model.eval().requires_grad_(False), sizes, rows != "many", Path(library))


if __name__ == "__main__":
    main(*sys.argv[1:])
