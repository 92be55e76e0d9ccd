"""Compiles an image classifier by torch.compile, on a GPU. The only module here with private names of torch."""

import types
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from deployments.engines.vision.compilation import Compiler
from deployments.engines.vision.forward import Form, Forward


class InductorCompiler(Compiler):
    """One code for a single image, another for any larger batch. Inductor has its own cache on disk."""

    def compile(self, forward: Forward, example: torch.Tensor) -> Form:
        form = forward.form
        compiled = torch.compile(_own_code(form.logits), fullgraph=True)
        with torch.inference_mode():
            compiled(example[None])
            if form.batch_size > 1:
                batch = torch.stack([example] * form.batch_size)
                torch._dynamo.mark_dynamic(batch, 0, min=2, max=form.batch_size)
                compiled(batch)
        return replace(form, logits=compiled, note="compiled by inductor")


def _own_code(function: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """`function` with a copy of its code object.

    torch.compile stores its results on the code object. With a shared one they would outlive the engine, and the ninth
    engine would exceed torch's limit of recompilations.
    """
    code, closure = function.__code__.replace(), function.__closure__
    return types.FunctionType(code, function.__globals__, function.__name__, None, closure)
