"""The child that compiles the decode step of a model, or its prompts, into a library on disk.

Tracing and compiling would hold up the thread that serves. The library holds no weights: it depends on the
configuration only, and the process that loads it lends it the tensors of its model.
"""

import json
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.initialization import no_init_weights

from deployments.engines.loading import configuration
from deployments.engines.text.compiled.modules import PromptModule, StepModule
from deployments.engines.text.layers.attention import use_step_attention
from deployments.engines.text.layers.int8 import quantise_linears
from deployments.engines.text.layers.linear import Layout, swap_linears
from deployments.system.worker_process import Report, serve

MOST_ROWS = 1_024
MOST_COLUMNS = 1 << 20
NEEDS_TORCH_LOADER = b"aoti_torch_proxy_executor_call_function"


def blank_model(folder: str, dtype: torch.dtype, attention: str, linears: str, layout: Layout) -> PreTrainedModel:
    """The model of a folder with the layers and names that it has where it serves; its weights hold nothing."""
    config = configuration(Path(folder)).get_text_config(decoder=True)
    with no_init_weights():  # Memory that is never written costs nothing.
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=attention, trust_remote_code=False
        )
    model.tie_weights()  # Left out where nothing is initialised. Layers that share a weight are not swapped.
    if linears == "int8":
        quantise_linears(model)
    elif linears != "plain":  # The process that loads the library lends it packed weights.
        swap_linears(model, json.loads(linears), layout)
    model.eval().requires_grad_(False)
    return model


def compile_step(model: PreTrainedModel, shapes: Sequence[tuple[int, int]], many: bool, library: Path) -> None:
    """Write the step for one row, or for any number from two on. `shapes`: heads and dim of each layer."""
    rows, columns = (4 if many else 1), 64
    tokens = torch.zeros(rows, dtype=torch.long)
    keys = [torch.zeros(rows, heads, columns, dim, dtype=model.dtype) for heads, dim in shapes]
    values = [torch.zeros_like(key) for key in keys]
    any_columns = torch.export.Dim("columns", min=2, max=MOST_COLUMNS)
    per_row = {0: torch.export.Dim("rows", min=2, max=MOST_ROWS)} if many else {}
    per_layer = [{**per_row, 2: any_columns}] * len(shapes)
    _compile(
        StepModule(model), (tokens, tokens.clone(), keys, values), (per_row, per_row, per_layer, per_layer), library
    )


def compile_prompts(model: PreTrainedModel, shapes: Sequence[tuple[int, int]], library: Path) -> None:
    """Write the forward of prompts: of two prompts, two tokens and two columns of prefix KV, or more."""
    per_token = {0: torch.export.Dim("tokens", min=2, max=MOST_COLUMNS)}
    per_prompt = {0: torch.export.Dim("prompts", min=2, max=MOST_ROWS)}
    known = torch.export.Dim("known", min=2, max=MOST_COLUMNS)
    tokens, columns = torch.arange(8), torch.arange(5)
    keys = [torch.zeros(heads, len(columns), dim, dtype=model.dtype) for heads, dim in shapes]
    values = [torch.zeros_like(key) for key in keys]
    per_layer = [{1: known}] * len(shapes)
    given = (tokens, tokens.clone(), torch.zeros_like(tokens), torch.tensor([2, 4, 7]), columns, columns.clone())
    sizes = (per_token, per_token, per_token, per_prompt, {0: known}, {0: known}, per_layer, per_layer)
    _compile(PromptModule(model), (*given, keys, values), sizes, library)


def _compile(module: nn.Module, given: tuple[Any, ...], sizes: tuple[Any, ...], library: Path) -> None:
    with torch.no_grad():
        program = torch.export.export(module, given, dynamic_shapes=sizes, strict=False)
    package = library.with_suffix(".pt2")
    torch._inductor.aoti_compile_and_package(
        program, package_path=str(package), inductor_configs={"aot_inductor.package_constants_in_so": False}
    )
    with zipfile.ZipFile(package) as packed:
        code = packed.read(next(name for name in packed.namelist() if name.endswith(".so")))
    if NEEDS_TORCH_LOADER in code:
        raise NotImplementedError("it calls operations that only torch's own loader can call")
    library.write_bytes(code)


def _answer(order: list[Any], report: Report) -> None:
    niceness, library, folder, dtype, kernel, linears, shapes, kind, threads = order
    os.nice(niceness)
    use_step_attention()
    torch.set_num_threads(threads)
    # Code for as many threads as the machine has takes fewer, too. Code for any other number takes no other.
    os.cpu_count = lambda: threads
    model = blank_model(folder, getattr(torch, dtype), kernel, linears, "blocked" if kind == "blocked" else "plain")
    if kind == "prompts":
        compile_prompts(model, shapes, Path(library))
    else:
        compile_step(model, shapes, kind == "many", Path(library))


if __name__ == "__main__":
    serve(_answer)
