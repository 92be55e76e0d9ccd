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
from deployments.engines.audio.openvino_convert import DOUBT, ENCODER, SCREEN, STEP
from deployments.engines.openvino_model import OpenVinoModel

_UNSEEN = np.finfo(np.float32).min


class ConvertedWhisper(NamedTuple):
    """What `openvino_convert` wrote."""

    encoder: OpenVinoModel
    step: OpenVinoModel
    screen: OpenVinoModel
    doubt: float
    """The largest of any token."""

    @classmethod
    def read(cls, place: Path, cores: int) -> "ConvertedWhisper":
        encoder, step, screen = (OpenVinoModel(place / name, cores) for name in (ENCODER, STEP, SCREEN))
        return cls(encoder, step, screen, float(np.load(place / DOUBT).max()))

    @property
    def resident_bytes(self) -> int:
        return self.encoder.resident_bytes + self.step.resident_bytes + self.screen.resident_bytes


class OpenVinoDecoder:
    """`keys` of a clip are the block in which it has its `row`. The block is freed with its last clip."""

    note = "OpenVINO"
    threads = 1
    """Of torch, whose own would spin on OpenVINO's cores."""

    def __init__(self, converted: ConvertedWhisper, model: Any, most: int) -> None:
        """`model`: torch's, for the vectors of tokens and places and for logits. `most`: clips that may share steps."""
        config, decoder = model.config, model.model.decoder
        self.converted = converted
        self._tokens, self._places = decoder.embed_tokens.weight, decoder.embed_positions.weight
        self.logits: Any = model.proj_out
        heads, layers = int(config.decoder_attention_heads), len(decoder.layers)
        shape = (2 * layers, most, heads)
        width = config.d_model // heads
        self._shapes = [(*shape, size, width) for size in (config.max_source_positions, config.max_target_positions)]
        self._newest: Any = lambda: None

    def hear(self, clip: Clip) -> None:
        assert clip.features is not None
        _, *keys = self.converted.encoder([clip.features[None]])
        block: _Block | None = self._newest()
        if block is None or block.free_row() is None:
            block = _Block(self.converted.step, self._shapes)
            self._newest = weakref.ref(block)
        block.add(clip, keys)

    def forward(self, clips: Sequence[Clip], tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        for clip in sorted(clips, key=_row, reverse=True):
            clip.keys.move_up(clip)
        last = np.empty((len(clips), self._tokens.shape[1]), np.float32)
        order = sorted(range(len(clips)), key=lambda n: (id(clips[n].keys), clips[n].row))
        for _, run in groupby(enumerate(order), lambda one: (id(clips[one[1]].keys), clips[one[1]].row - one[0])):
            together = [n for _, n in run]
            of_run = [clips[n] for n in together]
            for done, ids in enumerate(zip(*(tokens[n] for n in together), strict=True)):
                lengths = np.array([clip.length + done for clip in of_run])
                hidden = self._tokens[list(ids)] + self._places[lengths]
                found = of_run[0].keys.step(of_run[0].row, lengths, hidden.numpy())
            last[together] = found
        return torch.from_numpy(last)

    def best(self, hidden: torch.Tensor, bias: torch.Tensor) -> list[int]:
        """Only the tokens that may be the best, by the logits of rounded weights, get their logit in float32."""
        (scores,) = self.converted.screen([hidden])
        scores += bias
        doubts = 2 * self.converted.doubt * hidden.norm(dim=1)
        found = []
        for vector, of_one, floor in zip(hidden, scores, scores.amax(1) - doubts, strict=True):
            near = (of_one >= floor).nonzero()[:, 0]
            exact = self.logits.weight[near] @ vector + bias[near]
            found.append(int(near[exact.argmax()]))
        return found


class _Block:
    """Keys and values of what is heard and written, [2 * layers, rows, heads, positions, width] each."""

    def __init__(self, step: OpenVinoModel, shapes: Sequence[tuple[int, ...]]) -> None:
        self._run = step.in_place()  # its own: it holds what it has read
        self._sound, self._written = (np.zeros(shape, np.float32) for shape in shapes)  # takes memory as it is used
        self._clips: weakref.WeakValueDictionary[int, Clip] = weakref.WeakValueDictionary()

    def free_row(self) -> int | None:
        """The first one whose clip has ended, or is gone."""
        taken = {row for row, clip in self._clips.items() if clip.keys is self}
        return next((row for row in range(self._sound.shape[1]) if row not in taken), None)

    def add(self, clip: Clip, keys: Sequence[torch.Tensor]) -> None:
        row = self.free_row()
        assert row is not None
        for number, one in enumerate(keys):
            self._sound[number, row] = one[0].numpy()
        clip.keys, clip.row, self._clips[row] = self, row, clip

    def move_up(self, clip: Clip) -> None:
        """Into a row that is free before its own: only rows side by side share a step."""
        row = self.free_row()
        if row is None or row > clip.row:
            return
        self._sound[:, row] = self._sound[:, clip.row]
        self._written[:, row, :, : clip.length] = self._written[:, clip.row, :, : clip.length]
        del self._clips[clip.row]
        clip.row, self._clips[row] = row, clip

    def step(self, first: int, lengths: np.ndarray, hidden: np.ndarray) -> np.ndarray:
        """The decoder's last vectors of the clips from row `first` on, of which so much is written. They hold until the
        next step."""
        rows, longest = slice(first, first + len(lengths)), max(1, int(lengths.max()))
        mask = np.where(np.arange(longest + 1) < lengths[:, None], np.float32(0), _UNSEEN)
        mask[:, -1] = 0  # the new token
        written = np.ascontiguousarray(self._written[:, rows, :, :longest])
        last, new = self._run([hidden, mask[:, None], written, *self._sound[:, rows]])
        self._written[:, np.arange(rows.start, rows.stop), :, lengths] = new.swapaxes(0, 1)
        return last


def _row(clip: Clip) -> int:
    return clip.row
