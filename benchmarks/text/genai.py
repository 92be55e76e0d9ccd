"""OpenVINO GenAI as a peer: our model in the form that it reads, and its server."""

import shutil
from pathlib import Path
from typing import Any

import openvino as ov
import torch
from transformers import AutoModelForCausalLM

from benchmarks.environment import FOLDER, PEER_PYTHON
from benchmarks.servers import Server
from deployments.engines.text.decoders.model import ROUNDED
from deployments.engines.text.openvino.conversion import convert
from deployments.engines.text.openvino.rounding import round_weights

APPLICATION = FOLDER / "peers" / "openvino_genai_app.py"


def converted(model: Path, place: Path, dtype: str = "float32") -> Path:
    """A copy of the folder, with the model that `optimum-cli export openvino` would make: stateful.

    `dtype`: of the weights; "int8" and "int4" are rounded as ours are.
    """
    shutil.copytree(model, place)
    plain: Any = AutoModelForCausalLM.from_pretrained(model, attn_implementation="sdpa", dtype=torch.float32)
    stateful = convert(plain)
    if dtype in ROUNDED:
        round_weights(stateful, dtype)
    ov.save_model(stateful, place / "openvino_model.xml", compress_to_fp16=False)
    return place


def openvino_genai(place: Path, precision: str = "f32") -> Server:
    """With its own continuous batching and prefix cache. `precision`: of the arithmetic and the cache; "": its own."""

    def body(asked: tuple[str, int]) -> dict[str, Any]:
        prompt, length = asked
        return {"prompt": prompt, "max_tokens": length}

    def answer(reply: dict[str, Any]) -> tuple[str, int]:
        return reply["choices"][0]["text"], reply["usage"]["completion_tokens"]

    command = (PEER_PYTHON, APPLICATION, "--port", "{port}", "--model", place)
    name = "OpenVINO GenAI" if precision == "f32" else f"OpenVINO GenAI, {precision or 'as it comes'}"
    return Server(name, command, "/v1/completions", body, answer, {"PRECISION": precision})
