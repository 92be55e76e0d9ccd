"""Whisper's decoder for clips of one window: greedy, without times. Clips share steps, and join and leave between two.

A network computes (`torch_decoder`, `openvino_decoder`); the tokens are chosen here.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch

from deployments.engines.audio.openvino_convert import MOST_CLIPS
from deployments.engines.conversion import no_faster

SHARED_BYTES = 256 << 20
"""Of the keys and values of the clips that share steps. A clip of Whisper tiny takes 19 MiB, of small 113."""
PROBED = 16
"""Tokens of a clip in which two networks are compared."""
MEASURED = 3
"""How often at most it is measured which is faster: one try takes as long as a measurement may, and others compute."""
SAME = 1e-3
"""How far their last vectors may lie apart, for the largest value."""

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


class Network(Protocol):
    """Computes what the tokens are chosen by, on `threads` of torch's threads."""

    note: str
    threads: int
    logits: Callable[[torch.Tensor], torch.Tensor]
    """[clips, vocabulary] of what `forward` gives."""

    def encode(self, clip: "Clip") -> None:
        """Encodes the features, and keeps keys and values of the sound in the clip's `keys`, as it likes."""

    def forward(self, clips: "Sequence[Clip]", tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        """The decoder's last vector, [clips, width], of the last of the tokens of each, of which there are as many.
        They follow the `length` tokens that it has seen of each."""

    def best(self, hidden: torch.Tensor, bias: torch.Tensor) -> list[int]:
        """The tokens of the largest of `logits(hidden) + bias`."""


@dataclass(slots=True, weakref_slot=True, eq=False)
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
    """Of the tokens, where silence depends on it."""
    network: Network | None = None
    """The one that has encoded it."""
    length: int = 0
    keys: Any = None
    row: int = 0
    """Where in `keys`, if they are those of several clips."""
    last: torch.Tensor | None = None
    """The decoder's last vector."""
    together: int = 1
    """How many clips its steps computed, of them the most."""


class GreedyDecoder:
    """One model's decoder. Not for several threads at once."""

    def __init__(
        self, model: Any, network: Network, languages: Collection[int], no_speech: float, log_probability: float
    ) -> None:
        """`languages`: their tokens. A clip is silent beyond `no_speech` and below `log_probability` on average."""
        generation, decoder = model.generation_config, model.model.decoder
        self.network = network
        """Of the clips that begin from now on."""
        self._positions = int(model.config.max_target_positions)
        self._languages = torch.tensor(sorted(languages), dtype=torch.long, device=model.device)
        self._thresholds = no_speech, log_probability
        self._no_speech = int(generation.no_timestamps_token_id) - 1
        self._limits = generation.max_new_tokens, generation.max_length
        ends = generation.eos_token_id
        self._ends = set(ends) if isinstance(ends, list) else {ends}
        self._bias = torch.zeros(model.config.vocab_size, device=model.device)
        self._bias[sorted(generation.suppress_tokens or ())] = -torch.inf
        self._bias_first = self._bias.clone()
        self._bias_first[sorted(generation.begin_suppress_tokens or ())] = -torch.inf
        places = (int(model.config.max_source_positions) + self._positions) * len(decoder.layers)
        clip_bytes = 2 * places * model.config.d_model * model.dtype.itemsize
        self.most = max(1, min(MOST_CLIPS, SHARED_BYTES // clip_bytes))
        """Clips that may share steps."""

    @staticmethod
    def takes(generation: Any) -> bool:
        """Whether the folder asks for nothing that is not done here."""
        return all(getattr(generation, name, None) in (None, plain) for name, plain in _NOT_KNOWN.items())

    @torch.inference_mode()
    def begin(self, clip: Clip, network: Network | None = None) -> None:
        """Encodes the sound and computes the first token."""
        clip.network = network or self.network
        _use_threads(clip.network.threads)
        clip.network.encode(clip)
        clip.features = None
        start, *rest = clip.prompt
        assert start is not None
        last = self._forward([clip], [[start]])
        [logits] = clip.network.logits(last)
        clip.no_speech = float(logits.float().softmax(-1)[self._no_speech])
        if None in rest:
            found = int(self._languages[logits[self._languages].argmax()])
            rest = [found if token is None else token for token in rest]
            clip.prompt = [start, *rest]
        if rest:
            last = self._forward([clip], [[token for token in rest if token is not None]])
        self._choose(clip.network, [clip], last, self._bias_first)

    @torch.inference_mode()
    def step(self, clips: Sequence[Clip]) -> None:
        """The next token of each, where none is done."""
        for network in {clip.network for clip in clips}:  # two, where one has just taken the other's place
            assert network is not None
            alike = [clip for clip in clips if clip.network is network]
            for clip in alike:
                clip.together = max(clip.together, len(alike))
            last = self._forward(alike, [clip.tokens[-1:] for clip in alike])
            self._choose(network, alike, last, self._bias)

    def fault(self, other: Network, sounds: Sequence[torch.Tensor], prompt: Sequence[int | None]) -> str | None:
        """Why another network is not to take the place of this one; None: it writes the same, and sooner."""
        alone = [clip for sound in sounds for clip in self._try(self.network, [sound], prompt)]
        for one, same in zip(self._try(other, sounds, prompt), alone, strict=True):
            assert one.last is not None
            assert same.last is not None
            apart = (one.last - same.last).abs().max() / same.last.abs().max()
            if one.tokens != same.tokens or not apart <= SAME:
                return "converted it writes something else"
        before, after = (partial(self._try, network, sounds[:1], prompt) for network in (self.network, other))
        for _ in range(MEASURED):
            why = no_faster(before, after)
            if why is None:
                break
        return why

    def _try(self, network: Network, sounds: Sequence[torch.Tensor], prompt: Sequence[int | None]) -> list[Clip]:
        clips = [Clip(sound, list(prompt)) for sound in sounds]
        for clip in clips:
            self.begin(clip, network)
        while under_way := [clip for clip in clips if not clip.done and len(clip.tokens) < PROBED]:
            self.step(under_way)
        return clips

    def _choose(self, network: Network, clips: Sequence[Clip], last: torch.Tensor, bias: torch.Tensor) -> None:
        if any(clip.no_speech > self._thresholds[0] for clip in clips):
            scores = network.logits(last).float() + bias
            best = scores.max(1)
            tokens, chances = best.indices.tolist(), (best.values - scores.logsumexp(1)).tolist()
        else:  # no chance is looked at
            tokens, chances = network.best(last, bias), [0.0] * len(clips)
        for clip, token, chance, vector in zip(clips, tokens, chances, last, strict=True):
            clip.tokens.append(token)
            clip.log_probability += chance
            clip.last = vector
            if token in self._ends or len(clip.tokens) >= self._most_tokens(len(clip.prompt)):
                self._end(clip)

    def _end(self, clip: Clip) -> None:
        no_speech, log_probability = self._thresholds
        clip.silent = clip.no_speech > no_speech and clip.log_probability / len(clip.tokens) < log_probability
        clip.keys = None
        clip.done = True

    def _most_tokens(self, prompt: int) -> int:
        new, length = self._limits
        if new is None:  # as the library counts it
            new = min(int(length) + min(self._positions // 2 - 1, prompt), self._positions) - prompt
        return int(min(new, self._positions - prompt))

    def _forward(self, clips: Sequence[Clip], tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        """Of clips of one network."""
        network = clips[0].network
        assert network is not None
        _use_threads(network.threads)
        last = network.forward(clips, tokens)
        for clip in clips:
            clip.length += len(tokens[0])
        return last


def _use_threads(count: int) -> None:
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)  # of the calling thread
