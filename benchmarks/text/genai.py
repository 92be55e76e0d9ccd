"""OpenVINO GenAI as a peer: our model in the form that it reads, and its server."""

import shutil
from pathlib import Path
from typing import Any

import openvino as ov
from transformers import AutoModelForCausalLM

from benchmarks.environment import FOLDER, PEER_PYTHON
from benchmarks.servers import Server
from deployments.engines.text.openvino.conversion import convert

APPLICATION = FOLDER / "peers" / "openvino_genai_app.py"


def converted(model: Path, place: Path) -> Path:
    """A copy of the folder, with the model that `optimum-cli export openvino` would make: stateful, in float32."""
    shutil.copytree(model, place)
    plain: Any = AutoModelForCausalLM.from_pretrained(model, attn_implementation="sdpa")
    ov.save_model(convert(plain), place / "openvino_model.xml", compress_to_fp16=False)
    return place


def openvino_genai(place: Path) -> Server:
    """With its own continuous batching, prefix cache and float32, as ours."""

    def body(asked: tuple[str, int]) -> dict[str, Any]:
        prompt, length = asked
        return {"prompt": prompt, "max_tokens": length}

    def answer(reply: dict[str, Any]) -> tuple[str, int]:
        return reply["choices"][0]["text"], reply["usage"]["completion_tokens"]

    command = (PEER_PYTHON, APPLICATION, "--port", "{port}", "--model", place)
    return Server("OpenVINO GenAI", command, "/v1/completions", body, answer, {"PRECISION": "f32"})
