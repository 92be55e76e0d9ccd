"""Converts a Whisper's folder to OpenVINO's format, for a child process to call."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import Dim
from transformers import AutoModelForSpeechSeq2Seq

from deployments.engines.audio.loading import load_model
from deployments.engines.loading import configuration
from deployments.engines.openvino_export import exported

ENCODER, STEP, SCREEN, DOUBT = "encoder.xml", "step.xml", "screen.xml", "doubt.npy"
MOST_CLIPS = 8
"""That may share steps."""


class _Encoder(torch.nn.Module):
    """What is heard, [1, positions, width], and of each decoder layer the keys and values of it."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder = model.get_encoder()
        self.layers = model.model.decoder.layers
        self.heads = int(model.config.decoder_attention_heads)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        sound = self.encoder(features).last_hidden_state
        attentions = [layer.encoder_attn for layer in self.layers]
        projections = [project for attention in attentions for project in (attention.k_proj, attention.v_proj)]
        return sound, *(project(sound).unflatten(-1, (self.heads, -1)).transpose(1, 2) for project in projections)


class _Step(torch.nn.Module):
    """The decoder's last vectors, [clips, width], and the new keys and values, [2 * layers, clips, heads, width].

    `hidden`: [clips, width], of one token each. `mask`: added to the scores, [clips, 1, written + 1]. `written`:
    keys and values, [2 * layers, clips, heads, written, width]. `sound`: the encoder's, of all clips.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.decoder = model.model.decoder
        self.heads = int(model.config.decoder_attention_heads)

    def forward(
        self, hidden: torch.Tensor, mask: torch.Tensor, written: torch.Tensor, sound: list[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        new = []
        for number, layer in enumerate(self.decoder.layers):
            key, value = 2 * number, 2 * number + 1
            attention = layer.self_attn
            normed = layer.self_attn_layer_norm(hidden)
            projections = (attention.q_proj, attention.k_proj, attention.v_proj)
            queries, *own = (project(normed).unflatten(-1, (self.heads, 1, -1)) for project in projections)
            new += own
            known, means = (torch.cat([written[n], one], 2) for n, one in zip((key, value), own, strict=True))
            hidden = hidden + attention.out_proj(_attend(queries, known, means, mask))
            attention = layer.encoder_attn
            queries = attention.q_proj(layer.encoder_attn_layer_norm(hidden)).unflatten(-1, (self.heads, 1, -1))
            hidden = hidden + attention.out_proj(_attend(queries, sound[key], sound[value]))
            hidden = hidden + layer.fc2(layer.activation_fn(layer.fc1(layer.final_layer_norm(hidden))))
        return self.decoder.layer_norm(hidden), torch.stack(new)[:, :, :, 0]


def _attend(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """[clips, heads * width] from one query a clip, [clips, heads, 1, width].

    The scores as products and sums: for its own attention, and for a product of matrices, OpenVINO packs the keys anew
    at each step, which takes longer than to read them. `bmm`, since it copies the operands of `matmul`.
    """
    scores = (keys * (queries * queries.shape[-1] ** -0.5)).sum(-1)
    if mask is not None:
        scores = scores + mask
    means = torch.bmm(scores.softmax(-1).flatten(0, 1).unsqueeze(1), values.flatten(0, 1))
    return means.view(queries.shape[0], -1)


def _screen(weight: np.ndarray) -> tuple[Any, np.ndarray]:
    """A model of the logits from weights in int8, and for each token how far its logit may be off for a vector of
    length 1: the length of what rounding took from its weights, and what summing in float32 may add."""
    import openvino
    from openvino import opset13

    scale = np.maximum(np.abs(weight).max(1, keepdims=True), 1e-30) / 127
    rounded = np.rint(weight / scale).astype(np.int8)
    hidden = opset13.parameter([-1, weight.shape[1]], np.float32)
    weights = opset13.multiply(opset13.convert(opset13.constant(rounded), "f32"), opset13.constant(scale))
    doubt = np.linalg.norm(weight - rounded * scale, axis=1) + 1e-5 * np.linalg.norm(weight, axis=1)
    return openvino.Model([opset13.matmul(hidden, weights, False, True)], [hidden]), doubt.astype(np.float32)


def convert(folder: Path, place: Path) -> None:
    """Writes ENCODER, STEP, both in float32, SCREEN, weights beside them, and DOUBT into `place`.

    Raises whatever transformers, torch and OpenVINO raise for a model that they cannot take.
    """
    import openvino

    model = load_model(AutoModelForSpeechSeq2Seq, folder, configuration(folder), "cpu", "float32")
    config = model.config
    frames, layers, heads = (
        2 * config.max_source_positions,
        len(model.model.decoder.layers),
        config.decoder_attention_heads,
    )
    width, clips, length = config.d_model // heads, 3, 5  # torch.export takes a 1 for a constant
    encoder = exported(_Encoder(model), (torch.zeros(1, config.num_mel_bins, frames),), None)
    openvino.save_model(encoder, place / ENCODER, compress_to_fp16=False)
    example = (
        torch.zeros(clips, config.d_model),
        torch.zeros(clips, 1, length + 1),
        torch.zeros(2 * layers, clips, heads, length, width),
        [torch.zeros(clips, heads, config.max_source_positions, width) for _ in range(2 * layers)],
    )
    assert model.proj_out.bias is None  # it would be left out
    some = Dim("clips", min=1, max=MOST_CLIPS)
    sizes = ({0: some}, {0: some, 2: Dim.AUTO}, {1: some, 3: Dim.AUTO}, [{0: some}] * (2 * layers))
    openvino.save_model(exported(_Step(model), example, sizes), place / STEP, compress_to_fp16=False)
    screen, doubt = _screen(model.proj_out.weight.detach().numpy())
    openvino.save_model(screen, place / SCREEN, compress_to_fp16=False)
    np.save(place / DOUBT, doubt)
