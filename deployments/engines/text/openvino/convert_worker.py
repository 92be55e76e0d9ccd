"""The child that converts a model's folder for OpenVINO, and holds the result against the model's plain forward.

Tracing takes seconds of the interpreter and the weights a second time. Both end with the child; its parent reads files.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openvino as ov
import torch
from openvino.frontend.pytorch import patch_model
from transformers import PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from deployments.engines.text.decoders.model import ROUNDED, CausalModel
from deployments.engines.text.decoders.probe import Probe
from deployments.engines.text.openvino.compiled import ABOUT, MODEL, About, compile_model, with_pages
from deployments.engines.text.openvino.conversion import convert, windows
from deployments.engines.text.openvino.paged_decoder import PagedDecoder
from deployments.engines.text.openvino.rounding import round_weights
from deployments.system.worker_process import Report, serve

ORIGINAL_FORWARD = "_forward_before_tracing"
MOST_IN_FLOAT32 = 1 << 31
"""Bytes of 16-bit weights that are compared in float32 too, twice as large."""
TRACEABLE_KERNEL, TRACEABLE_EXPERTS = "sdpa", "batched_mm"
"""The forms of attention and of mixtures of experts that become operations which OpenVINO knows."""


def make(folder: Path, dtype: str | None, place: Path) -> bool:
    """Writes MODEL and ABOUT into `place`; False if the converted model does not match the plain one.

    Raises ModelLoadFailed, and whatever torch and OpenVINO raise for a model that they cannot take.
    """
    loaded = CausalModel.load(folder, "cpu", dtype)
    if loaded.positions_depend_on_length:
        raise NotImplementedError("its positions depend on the length of the text")
    probe = Probe.of(loaded)
    kernel = TRACEABLE_KERNEL if getattr(loaded.model, "_supports_sdpa", False) else "eager"
    loaded.model.set_attn_implementation(kernel)
    if hasattr(loaded.model, "set_experts_implementation"):
        loaded.model.set_experts_implementation(TRACEABLE_EXPERTS)
    with _traceable(loaded.model):
        converted = convert(loaded.model)
    precision = _precision(probe.dtype)
    kinds = windows(loaded.model.config.get_text_config())
    if dtype in ROUNDED:  # The conversion is held against the plain model before what rounding loses hides its faults.
        unrounded = with_pages(converted.clone(), kinds, precision, 1)
        if not probe.matches(PagedDecoder(unrounded, 0, 2, loaded.context)):
            return False
        del unrounded
        round_weights(converted, dtype)
    file = place / MODEL
    ov.save_model(converted, file, compress_to_fp16=False)
    weight_bytes = file.with_suffix(".bin").stat().st_size
    about = About(precision, kinds, weight_bytes, loaded.context, loaded.vocabulary, sorted(loaded.stop_ids))
    (place / ABOUT).write_text(json.dumps(about))
    decoder = PagedDecoder(compile_model(place, about, 1), 0, 2, loaded.context)
    if probe.matches(decoder, rounded=dtype in ROUNDED):
        return True
    if probe.dtype == torch.float32 or weight_bytes > MOST_IN_FLOAT32 or not probe.matches(decoder, rounded=True):
        return False
    del loaded, converted, decoder
    return _matches_in_float32(folder, dtype, place, about)


def _matches_in_float32(folder: Path, dtype: str | None, place: Path, about: About) -> bool:
    """Deep models may make more of rounding than the probe allows: their conversion is compared without any."""
    exact = CausalModel.load(folder, "cpu", dtype)
    exact.model.float()
    decoder = PagedDecoder(compile_model(place, about._replace(precision="f32"), 1), 0, 2, exact.context)
    return Probe.of(exact).matches(decoder)


@contextmanager
def _traceable(model: PreTrainedModel) -> Iterator[None]:
    """16-bit weights become 16-bit constants. Meanwhile functions of torch are replaced, in the whole process."""
    if model.dtype == torch.float32:
        yield
        return
    try:
        getattr(patch_model, "__make_16bit_traceable")(model, ORIGINAL_FORWARD)
        yield
    finally:
        patch_model.unpatch_model(model, ORIGINAL_FORWARD)


def _precision(dtype: torch.dtype) -> str:
    """16 bits where the processor computes with them."""
    able = "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "bf16" if dtype == torch.bfloat16 and able else "f32"


def _answer(request: Any, report: Report) -> bool:
    folder, dtype, place = request
    return make(Path(folder), dtype, Path(place))


if __name__ == "__main__":
    disable_progress_bar()  # its lock may stay taken at the end, and the child would never exit
    logging.disable()
    torch.set_num_threads(1)  # Others compute meanwhile, and threads of one operation would wait for each other.
    serve(_answer)
