"""Whisper's network by torch. A clip's keys and values are its own, so nothing is padded."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from deployments.engines.audio.greedy import Clip


class TorchDecoder:
    """`keys` of a clip are those of each layer: keys and values of what is written, [heads, positions, width], and
    those of the sound."""

    note = "PyTorch"

    def __init__(self, model: Any, cores: int) -> None:
        self.threads = cores
        self._decoder: Any = model.model.decoder
        self.logits: Any = model.proj_out
        self._encode: Any = model.get_encoder().forward  # not what may later take its place and remember a sound
        self._positions = int(model.config.max_target_positions)
        self._heads = int(model.config.decoder_attention_heads)

    def encode(self, clip: Clip) -> None:
        assert clip.features is not None
        sound = self._encode(clip.features[None]).last_hidden_state[0]
        clip.keys = []
        for layer in self._decoder.layers:
            attention = layer.encoder_attn
            of_sound = (self._split(project(sound)).contiguous() for project in (attention.k_proj, attention.v_proj))
            shape = (self._heads, self._positions, sound.shape[-1] // self._heads)
            clip.keys.append((sound.new_empty(shape), sound.new_empty(shape), *of_sound))

    def forward(self, clips: Sequence[Clip], tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        decoder, count = self._decoder, len(tokens[0])
        device = self.logits.weight.device
        ids = torch.tensor(tokens, device=device).flatten()
        places = torch.tensor([clip.length + n for clip in clips for n in range(count)], device=device)
        hidden = decoder.embed_tokens(ids) + decoder.embed_positions.weight[places]
        for number, layer in enumerate(decoder.layers):
            attention = layer.self_attn
            normed = layer.self_attn_layer_norm(hidden)
            queries, keys, values = (
                self._split(project(normed)) for project in (attention.q_proj, attention.k_proj, attention.v_proj)
            )
            seen = []
            for n, clip in enumerate(clips):
                rows, end = slice(n * count, (n + 1) * count), clip.length + count
                known, means, *_ = clip.keys[number]
                known[:, clip.length : end] = keys[:, rows]
                means[:, clip.length : end] = values[:, rows]
                seen.append(_attend(queries[:, rows], known[:, :end], means[:, :end], clip.length))
            hidden = hidden + attention.out_proj(self._join(seen))
            attention = layer.encoder_attn
            queries = self._split(attention.q_proj(layer.encoder_attn_layer_norm(hidden)))
            attended = []
            for n, clip in enumerate(clips):
                *_, known, means = clip.keys[number]
                attended.append(_attend(queries[:, n * count : (n + 1) * count], known, means))
            hidden = hidden + attention.out_proj(self._join(attended))
            hidden = hidden + layer.fc2(layer.activation_fn(layer.fc1(layer.final_layer_norm(hidden))))
        last: torch.Tensor = decoder.layer_norm(hidden[count - 1 :: count])
        return last

    def best(self, hidden: torch.Tensor, bias: torch.Tensor) -> list[int]:
        found: list[int] = (self.logits(hidden) + bias).argmax(1).tolist()
        return found

    def _split(self, rows: torch.Tensor) -> torch.Tensor:
        """[rows, heads * width] to [heads, rows, width]."""
        return rows.view(len(rows), self._heads, -1).transpose(0, 1)

    def _join(self, of_clips: Sequence[torch.Tensor]) -> torch.Tensor:
        """The reverse, of all clips."""
        return torch.cat([one.transpose(0, 1).flatten(1) for one in of_clips])


def _attend(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, before: int | None = None) -> torch.Tensor:
    """`before`: so many keys precede those of the queries, of which each sees itself and what precedes it."""
    mask = None
    if before is not None and queries.shape[1] > 1:
        mask = torch.ones(queries.shape[1], keys.shape[1], dtype=torch.bool, device=keys.device).tril(before)
    attended: torch.Tensor = scaled_dot_product_attention(queries[None], keys[None], values[None], attn_mask=mask)
    return attended[0]
