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

ENCODER, STEP, DOUBT = "encoder.xml", "step.xml", "doubt.npy"
MOST_CLIPS = 8
"""That may share steps."""


class _Encoder(torch.nn.Module):
    """The encoded sound, [1, positions, width], and of each decoder layer the keys and values of it."""

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
    """The decoder's last vectors, [clips, width], and the new keys and values, [clips, 2 * layers, heads, width].

    `hidden`: [clips, width], of one token each. `mask`: added to the scores of what is written, [clips, 1, places].
    `written`: keys and values of each layer, [clips, heads, places, width]. `sound`: the encoder's, of all clips.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.decoder = model.model.decoder
        self.heads = int(model.config.decoder_attention_heads)
        self.projections = torch.nn.ModuleList(_joined(layer.self_attn) for layer in self.decoder.layers)

    def forward(
        self, hidden: torch.Tensor, mask: torch.Tensor, written: list[torch.Tensor], sound: list[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        new = []
        for number, (layer, projections) in enumerate(zip(self.decoder.layers, self.projections, strict=True)):
            key, value = 2 * number, 2 * number + 1
            projected = projections(layer.self_attn_layer_norm(hidden)).unflatten(-1, (3, self.heads, 1, -1))
            queries, own_key, own_value = projected.unbind(1)
            new += [own_key, own_value]
            scores = torch.cat([_scores(queries, written[key]) + mask, _scores(queries, own_key)], -1)
            shares = scores.softmax(-1)
            means = _means(shares[..., :-1], written[value]) + shares[..., -1:, None] * own_value
            hidden = hidden + layer.self_attn.out_proj(means.flatten(1))
            attention = layer.encoder_attn
            queries = attention.q_proj(layer.encoder_attn_layer_norm(hidden)).unflatten(-1, (self.heads, 1, -1))
            shares = _scores(queries * queries.shape[-1] ** -0.5, sound[key]).softmax(-1)
            hidden = hidden + attention.out_proj(_means(shares, sound[value]).flatten(1))
            hidden = hidden + layer.fc2(layer.activation_fn(layer.fc1(layer.final_layer_norm(hidden))))
        return self.decoder.layer_norm(hidden), torch.stack(new, 1)[:, :, :, 0]


def _scores(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """[clips, heads, places], of one query a clip. Products and sums: for its own attention, and for a product of
    matrices, OpenVINO packs the keys anew at each step, which takes longer than to read them."""
    return (keys * queries).sum(-1)


def _means(shares: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """[clips, heads, 1, width]. `bmm`, since what is exported of `matmul` copies the values."""
    means: torch.Tensor = torch.bmm(shares.flatten(0, 1).unsqueeze(1), values.flatten(0, 1))
    return means.view(*shares.shape[:2], 1, -1)


def _joined(attention: Any) -> torch.nn.Linear:
    """The projections to queries, scaled, keys and values, as one."""
    scale = attention.head_dim**-0.5
    query, key, value = attention.q_proj, attention.k_proj, attention.v_proj
    joined = torch.nn.Linear(query.in_features, 3 * query.out_features)
    joined.weight.data = torch.cat([query.weight * scale, key.weight, value.weight])
    joined.bias.data = torch.cat([query.bias * scale, torch.zeros_like(query.bias), value.bias])
    return joined


def screened(hidden: Any, weight: np.ndarray) -> tuple[Any, np.ndarray]:
    """OpenVINO's logits of `hidden` from weights in int8, and for each token how far its logit may be off for a vector
    of length 1: the length of what rounding took from its weights, and what summing in float32 may add."""
    from openvino import opset13

    scale = np.maximum(np.abs(weight).max(1, keepdims=True), 1e-30) / 127
    rounded = np.rint(weight / scale).astype(np.int8)
    weights = opset13.multiply(opset13.convert(opset13.constant(rounded), "f32"), opset13.constant(scale))
    doubt = np.linalg.norm(weight - rounded * scale, axis=1) + 1e-5 * np.linalg.norm(weight, axis=1)
    return opset13.matmul(hidden, weights, False, True), doubt.astype(np.float32)


def convert(folder: Path, place: Path) -> None:
    """Writes ENCODER and STEP, both in float32 but for the logits that STEP gives as its third output, weights beside
    them, and DOUBT into `place`.

    Raises whatever transformers, torch and OpenVINO raise for a model that they cannot take.
    """
    import openvino

    model = load_model(AutoModelForSpeechSeq2Seq, folder, configuration(folder), "cpu", "float32")
    config = model.config
    positions, layers = config.max_source_positions, len(model.model.decoder.layers)
    heads = config.decoder_attention_heads
    width, clips, length = config.d_model // heads, 3, 5  # torch.export takes a 1 for a constant
    encoder = exported(_Encoder(model), (torch.zeros(1, config.num_mel_bins, 2 * positions),), None)
    openvino.save_model(encoder, place / ENCODER, compress_to_fp16=False)
    written = [torch.zeros(clips, heads, length, width) for _ in range(2 * layers)]
    sound = [torch.zeros(clips, heads, positions, width) for _ in range(2 * layers)]
    example = (torch.zeros(clips, config.d_model), torch.zeros(clips, 1, length), written, sound)
    some = Dim("clips", min=1, max=MOST_CLIPS)
    sizes = ({0: some}, {0: some, 2: Dim.AUTO}, [{0: some, 2: Dim.AUTO}] * (2 * layers), [{0: some}] * (2 * layers))
    step = exported(_Step(model), example, sizes)
    assert model.proj_out.bias is None  # it would be left out
    last = step.outputs[0].get_node().input_value(0)
    logits, doubt = screened(last, model.proj_out.weight.detach().numpy())
    step.add_results([openvino.opset13.result(logits)])
    openvino.save_model(step, place / STEP, compress_to_fp16=False)
    np.save(place / DOUBT, doubt)
