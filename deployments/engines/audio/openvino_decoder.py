"""Whisper's network by OpenVINO. The keys and values of all clips lie in one block of memory, a row each, so that those
of the clips that share a step are read where they lie."""

import weakref
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from deployments.engines.audio.greedy import Clip
from deployments.engines.audio.openvino_convert import DOUBT, ENCODER, STEP
from deployments.engines.openvino_model import OpenVinoModel

_UNSEEN = np.finfo(np.float32).min
_PLACES = 64
"""By so many the arrays of what is written grow: for OpenVINO another shape is work."""


class ConvertedWhisper(NamedTuple):
    """What `openvino_convert` wrote."""

    encoder: OpenVinoModel
    step: OpenVinoModel
    doubt: float
    """The largest of any token."""

    @classmethod
    def read(cls, place: Path, cores: int) -> "ConvertedWhisper":
        encoder, step = (OpenVinoModel(place / name, cores) for name in (ENCODER, STEP))
        return cls(encoder, step, float(np.load(place / DOUBT).max()))

    @property
    def resident_bytes(self) -> int:
        return self.encoder.resident_bytes + self.step.resident_bytes


class OpenVinoDecoder:
    """`keys` of a clip are the block in which it has its `row`. The block is freed with its last clip."""

    note = "OpenVINO"
    threads = 1
    """Of torch, whose own would spin on OpenVINO's cores."""

    def __init__(self, converted: ConvertedWhisper, model: Any, most: int) -> None:
        """`model`: torch's, for the vectors of tokens and places and for logits. `most`: clips that may share steps."""
        config, decoder = model.config, model.model.decoder
        self.converted = converted
        self._tokens, self._places = (
            part.weight.numpy(force=True) for part in (decoder.embed_tokens, decoder.embed_positions)
        )
        self.logits: Any = model.proj_out
        self._weight = model.proj_out.weight.numpy(force=True)
        self._scores: list[np.ndarray] = []
        """Of what `forward` gave last: the logits from rounded weights, [vocabulary] each."""
        heads, positions = int(config.decoder_attention_heads), int(config.max_source_positions)
        self._shapes = [(most, heads, places, config.d_model // heads) for places in (positions, _PLACES)]
        self._count = 2 * len(decoder.layers)
        self._newest: Any = lambda: None

    def encode(self, clip: Clip) -> None:
        assert clip.features is not None
        _, *keys = self.converted.encoder([clip.features[None]])
        block: _Block | None = self._newest()
        if block is None or block.free_row() is None:
            block = _Block(self.converted.step, self._count, *self._shapes)
            self._newest = weakref.ref(block)
        block.add(clip, keys)

    def forward(self, clips: Sequence[Clip], tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        for clip in sorted(clips, key=_row, reverse=True):
            clip.keys.move_up(clip)
        last = np.empty((len(clips), self._tokens.shape[1]), np.float32)
        self._scores = [last] * len(clips)
        order = sorted(range(len(clips)), key=lambda n: (id(clips[n].keys), clips[n].row))
        for _, run in groupby(enumerate(order), lambda one: (id(clips[one[1]].keys), clips[one[1]].row - one[0])):
            together = [n for _, n in run]
            of_run = [clips[n] for n in together]
            for done, ids in enumerate(zip(*(tokens[n] for n in together), strict=True)):
                lengths = np.array([clip.length + done for clip in of_run])
                hidden = self._tokens[list(ids)] + self._places[lengths]
                found, scores = of_run[0].keys.step(of_run[0].row, lengths, hidden)
            last[together] = found
            if len(together) < len(clips):
                scores = scores.copy()  # the next run may overwrite it
            for n, row in zip(together, scores, strict=True):
                self._scores[n] = row
        return torch.from_numpy(last)

    def best(self, hidden: torch.Tensor, bias: torch.Tensor) -> list[int]:
        added = bias.numpy()
        return [
            best_token(scores, vector, added, self._weight, self.converted.doubt)
            for scores, vector in zip(self._scores, hidden.numpy(), strict=True)
        ]


def best_token(scores: np.ndarray, vector: np.ndarray, bias: np.ndarray, weight: np.ndarray, doubt: float) -> int:
    """The token of the largest of `weight @ vector + bias`. `scores`: the same from rounded weights, without the bias,
    and each off by `doubt` at most for a vector of length 1. Only those that may be the best are computed in float32.
    """
    scores = scores + bias
    near = np.flatnonzero(scores >= scores.max() - 2 * doubt * np.linalg.norm(vector))
    if len(near) == 1:
        return int(near[0])
    return int(near[((weight[near] * vector).sum(1) + bias[near]).argmax()])


class _Block:
    """Keys and values of the sound and of the tokens: an array for the keys of each layer, and one for its values."""

    def __init__(self, step: OpenVinoModel, count: int, sound: tuple[int, ...], written: tuple[int, ...]) -> None:
        """`count` arrays each, of these shapes."""
        self._run = step.in_place()  # its own: it holds what it reads
        self._sound, self._written = (
            [np.zeros(shape, np.float32) for _ in range(count)]  # takes memory as it is used
            for shape in (sound, written)
        )
        self._set: tuple[int, int, int] | None = None
        """The rows and the places that are set."""
        self._hidden = self._mask = np.empty(0, np.float32)
        self._clips: weakref.WeakValueDictionary[int, Clip] = weakref.WeakValueDictionary()

    def free_row(self) -> int | None:
        """The first one whose clip has ended, or is gone."""
        taken = {row for row, clip in self._clips.items() if clip.keys is self}
        return next((row for row in range(len(self._sound[0])) if row not in taken), None)

    def add(self, clip: Clip, keys: Sequence[torch.Tensor]) -> None:
        row = self.free_row()
        assert row is not None
        for all_rows, one in zip(self._sound, keys, strict=True):
            all_rows[row] = one[0].numpy()
        clip.keys, clip.row, self._clips[row] = self, row, clip

    def move_up(self, clip: Clip) -> None:
        """Into a row that is free before its own: only rows side by side share a step."""
        row = self.free_row()
        if row is None or row > clip.row:
            return
        for all_rows in (*self._sound, *self._written):
            all_rows[row] = all_rows[clip.row]
        del self._clips[clip.row]
        clip.row, self._clips[row] = row, clip

    def step(self, first: int, lengths: np.ndarray, hidden: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The decoder's last vectors of the clips from row `first` on, of which so much is written, and their logits
        from rounded weights. They hold until the next step."""
        self._take(first, hidden, int(lengths.max()))
        self._hidden[:] = hidden
        places = np.arange(self._mask.shape[-1])
        self._mask[:] = np.where(places < lengths[:, None], np.float32(0), _UNSEEN)[:, None]
        last, new, scores = self._run()
        rows = np.arange(first, first + len(lengths))
        for number, all_rows in enumerate(self._written):
            all_rows[rows, :, lengths] = new[:, number]
        return last, scores

    def _take(self, first: int, hidden: np.ndarray, longest: int) -> None:
        """Has the rows read from `first` on, with a place for one more token."""
        count, places = len(hidden), self._written[0].shape[2]
        if longest >= places:
            for number, before in enumerate(self._written):
                self._written[number] = np.pad(before, ((0, 0), (0, 0), (0, _PLACES), (0, 0)))
            places += _PLACES
        if self._set == (first, count, places):
            return
        self._hidden = np.empty_like(hidden)
        self._mask = np.empty((count, 1, places), np.float32)
        rows = slice(first, first + count)
        self._run.set(0, [self._hidden, self._mask, *(one[rows] for one in (*self._written, *self._sound))])
        self._set = first, count, places


def _row(clip: Clip) -> int:
    return clip.row
