"""Whisper's decoder for clips of one window: greedy, without times. Clips share steps, and join and leave between two.

A clip's keys and values are its own, so nothing is padded, and a clip costs the same memory whatever others do.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

SHARED_BYTES = 256 << 20
"""Of the keys and values of the clips that share steps. A clip of Whisper tiny takes 19 MiB, of small 113."""
MOST_CLIPS = 8

_NOT_KNOWN = {
    "num_beams": 1,
    "num_return_sequences": 1,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "min_length": 0,
    "min_new_tokens": 0,
    "bad_words_ids": None,
    "force_words_ids": None,
    "sequence_bias": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "exponential_decay_length_penalty": None,
    "guidance_scale": None,
    "stop_strings": None,
}
"""Of generation_config.json: what changes the tokens and is not done here, with the values that ask for nothing."""


@dataclass(slots=True)
class Clip:
    """The features of one window, [mels, frames], and what was written of it."""

    features: torch.Tensor | None
    prompt: list[int | None]
    """None stands for the language, which is then detected."""
    tokens: list[int] = field(default_factory=list)
    done: bool = False
    silent: bool = False
    """No speech is more probable than the text is."""
    no_speech: float = 0.0
    log_probability: float = 0.0
    length: int = 0
    keys: list[tuple[torch.Tensor, ...]] = field(default_factory=list)
    """Of each layer: keys and values of what is written, [heads, positions, width], and those of the sound."""


class GreedyDecoder:
    """One model's decoder. Not for several threads at once."""

    def __init__(self, model: Any, languages: Collection[int], no_speech: float, log_probability: float) -> None:
        """`languages`: their tokens. A clip is silent beyond `no_speech` and below `log_probability` on average."""
        generation, decoder = model.generation_config, model.model.decoder
        self._decoder: Any = decoder
        self._logits: Any = model.proj_out
        self._encoder: Any = model.get_encoder()
        self._positions = int(model.config.max_target_positions)
        self._heads = int(model.config.decoder_attention_heads)
        self._languages = torch.tensor(sorted(languages), dtype=torch.long, device=model.device)
        self._thresholds = no_speech, log_probability
        self._no_speech = int(generation.no_timestamps_token_id) - 1
        self._limits = generation.max_new_tokens, generation.max_length
        ends = generation.eos_token_id
        self._ends = set(ends) if isinstance(ends, list) else {ends}
        self._suppressed, self._suppressed_first = (
            torch.tensor(sorted(tokens or ()), dtype=torch.long, device=model.device)
            for tokens in (generation.suppress_tokens, generation.begin_suppress_tokens)
        )
        places = (int(model.config.max_source_positions) + self._positions) * len(decoder.layers)
        clip_bytes = 2 * places * model.config.d_model * model.dtype.itemsize
        self.most = max(1, min(MOST_CLIPS, SHARED_BYTES // clip_bytes))
        """Clips that may share steps."""

    @staticmethod
    def takes(generation: Any) -> bool:
        """Whether the folder asks for nothing that is not done here."""
        return all(getattr(generation, name, None) in (None, plain) for name, plain in _NOT_KNOWN.items())

    @torch.inference_mode()
    def begin(self, clip: Clip) -> None:
        """Encodes the sound and computes the first token."""
        assert clip.features is not None
        sound = self._encoder(clip.features[None]).last_hidden_state[0]
        clip.features = None
        for layer in self._decoder.layers:
            attention = layer.encoder_attn
            heard = (self._split(project(sound)).contiguous() for project in (attention.k_proj, attention.v_proj))
            shape = (self._heads, self._positions, sound.shape[-1] // self._heads)
            clip.keys.append((sound.new_empty(shape), sound.new_empty(shape), *heard))
        start, *rest = clip.prompt
        assert start is not None
        [logits] = self._forward([clip], [[start]])
        clip.no_speech = float(logits.float().softmax(-1)[self._no_speech])
        if None in rest:
            found = int(self._languages[logits[self._languages].argmax()])
            rest = [found if token is None else token for token in rest]
            clip.prompt = [start, *rest]
        if rest:
            [logits] = self._forward([clip], [[token for token in rest if token is not None]])
        if len(self._suppressed_first):
            logits = logits.index_fill(0, self._suppressed_first, -torch.inf)
        self._choose([clip], logits[None])

    @torch.inference_mode()
    def step(self, clips: Sequence[Clip]) -> None:
        """The next token of each, where none is done."""
        self._choose(clips, self._forward(clips, [clip.tokens[-1:] for clip in clips]))

    def _choose(self, clips: Sequence[Clip], logits: torch.Tensor) -> None:
        scores = logits.float().index_fill(1, self._suppressed, -torch.inf)
        best = scores.max(1)
        chances = (best.values - scores.logsumexp(1)).tolist()
        for clip, token, chance in zip(clips, best.indices.tolist(), chances, strict=True):
            clip.tokens.append(token)
            clip.log_probability += chance
            if token in self._ends or len(clip.tokens) >= self._most_tokens(len(clip.prompt)):
                self._end(clip)

    def _end(self, clip: Clip) -> None:
        no_speech, log_probability = self._thresholds
        clip.silent = clip.no_speech > no_speech and clip.log_probability / len(clip.tokens) < log_probability
        clip.keys.clear()
        clip.done = True

    def _most_tokens(self, prompt: int) -> int:
        new, length = self._limits
        if new is None:  # as the library counts it
            new = min(int(length) + min(self._positions // 2 - 1, prompt), self._positions) - prompt
        return int(min(new, self._positions - prompt))

    def _forward(self, clips: Sequence[Clip], tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        """Logits [clips, vocabulary] after the last of the tokens of each, of which there are as many."""
        decoder, count = self._decoder, len(tokens[0])
        device = self._logits.weight.device
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
            heard = []
            for n, clip in enumerate(clips):
                *_, known, means = clip.keys[number]
                heard.append(_attend(queries[:, n * count : (n + 1) * count], known, means))
            hidden = hidden + attention.out_proj(self._join(heard))
            hidden = hidden + layer.fc2(layer.activation_fn(layer.fc1(layer.final_layer_norm(hidden))))
        for clip in clips:
            clip.length += count
        logits: torch.Tensor = self._logits(decoder.layer_norm(hidden[count - 1 :: count]))
        return logits

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
