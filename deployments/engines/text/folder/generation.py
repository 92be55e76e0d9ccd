"""How a folder's generation_config.json changes the choice of tokens, as `generate` of transformers does it.

Its defaults for requests (`deployments.contract.generation`) are in the request by then; here is what concerns every
step. The processors are the library's own, in its order. Knows logits and tokens, not models.
"""

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers as library
from torch import Tensor
from transformers import LogitsProcessorList

from deployments.contract.generation import folder_defaults
from deployments.contract.types import SamplingOptions

log = logging.getLogger(__name__)

FILE = "generation_config.json"


@dataclass(frozen=True, slots=True)
class Situation:
    """Of one request: the tokens [n] of its prompt, its length at most, and the model's end tokens."""

    prompt: Any
    max_length: int
    ends: Tensor

    @property
    def length(self) -> int:
        return len(self.prompt)

    @property
    def device(self) -> str:
        return str(self.prompt.device)


Make = Callable[[Any, Situation], Any]
FIRST: Mapping[str, Make] = {
    "sequence_bias": lambda value, now: library.SequenceBiasLogitsProcessor(value),
    "encoder_repetition_penalty": lambda value, now: library.EncoderRepetitionPenaltyLogitsProcessor(
        value, now.prompt[None]
    ),
}
"""Before the repetition penalty."""
NEXT: Mapping[str, Make] = {
    "no_repeat_ngram_size": lambda value, now: library.NoRepeatNGramLogitsProcessor(value),
    "encoder_no_repeat_ngram_size": lambda value, now: library.EncoderNoRepeatNGramLogitsProcessor(
        value, now.prompt[None]
    ),
    "bad_words_ids": lambda value, now: library.NoBadWordsLogitsProcessor(value, now.ends),
    "min_length": lambda value, now: library.MinLengthLogitsProcessor(value, now.ends, now.device),
    "min_new_tokens": lambda value, now: library.MinNewTokensLengthLogitsProcessor(
        now.length, value, now.ends, now.device
    ),
    "forced_bos_token_id": lambda value, now: library.ForcedBOSTokenLogitsProcessor(value),
    "forced_eos_token_id": lambda value, now: library.ForcedEOSTokenLogitsProcessor(now.max_length, value, now.device),
    "exponential_decay_length_penalty": lambda value, now: library.ExponentialDecayLengthPenalty(
        tuple(value), now.ends, now.length
    ),
    "suppress_tokens": lambda value, now: library.SuppressTokensLogitsProcessor(value, now.device),
    "begin_suppress_tokens": lambda value, now: library.SuppressTokensAtBeginLogitsProcessor(
        value, now.length, now.device
    ),
}
"""After it."""
WARPERS: Mapping[str, Make] = {
    "typical_p": lambda value, now: library.TypicalLogitsWarper(value),
    "epsilon_cutoff": lambda value, now: library.EpsilonLogitsWarper(value),
    "eta_cutoff": lambda value, now: library.EtaLogitsWarper(value, device=now.device),
}
"""After temperature, top_k, top_p and min_p, where tokens are drawn."""
TOP_H: Mapping[str, Make] = {"top_h": lambda value, now: library.TopHLogitsWarper(value)}
"""After the temperature, before the others."""
STEPS: Mapping[str, Make] = {**FIRST, **NEXT, **TOP_H, **WARPERS}
REQUESTS = frozenset(
    {"do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "stop_strings", "max_new_tokens"}
)
"""Defaults of requests."""
NOT_HONOURED: Mapping[str, object] = {
    "max_length": None,
    "max_time": None,
    "num_beams": 1,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "constraints": None,
    "force_words_ids": None,
    "penalty_alpha": 0.0,
    "dola_layers": None,
    "guidance_scale": 1.0,
    "watermarking_config": None,
    "token_healing": False,
    "remove_invalid_values": False,
}
"""Keys that would change the text and do not here, with the value that changes nothing."""
_OFF: Mapping[str, object] = {
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "min_length": 0,
    "min_new_tokens": 0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
}


class StepProcessors:
    """What the folder does to the logits of one request. Each takes tokens [1, n] and logits [1, vocabulary]."""

    def __init__(self, first: list[Any], following: list[Any], warpers: list[Any]) -> None:
        self.first = LogitsProcessorList(first)
        self.following = LogitsProcessorList(following)
        self.warpers = LogitsProcessorList(warpers)


class FolderGeneration:
    """The keys of one folder's generation_config.json that are honoured at every step."""

    def __init__(self, values: Mapping[str, Any], ends: Iterable[int], device: str = "cpu") -> None:
        self._ends = torch.tensor(sorted(ends), dtype=torch.long, device=device)
        self._values = dict(values)
        trial = Situation(torch.zeros(2, dtype=torch.long, device=device), 9, self._ends)
        said = {name: value for name, value in values.items() if name in STEPS and _says(value, _OFF.get(name))}
        self.steps = {name: value for name, value in said.items() if self._can_make(name, value, trial)}
        """Those that change logits, by name."""
        ignored = {name for name, off in NOT_HONOURED.items() if _says(values.get(name), off)}
        self.not_honoured = sorted(ignored | (said.keys() - self.steps.keys()))

    @classmethod
    def read(cls, folder: Path, ends: Iterable[int], device: str = "cpu") -> "FolderGeneration":
        """Of a folder that was validated."""
        file = folder / FILE
        values = json.loads(file.read_bytes()) if file.is_file() else {}
        return cls(values if isinstance(values, dict) else {}, ends, device)

    @property
    def notes(self) -> tuple[str, ...]:
        """For the status page."""
        defaults = folder_defaults(self._values).model_dump(exclude_none=True)
        said = [f"{name} {value}" for name, value in defaults.items()]
        parts = [
            f"where a request says nothing: {', '.join(said)}" if said else "",
            f"always: {', '.join(self.steps)}" if self.steps else "",
            f"not honoured: {', '.join(self.not_honoured)}" if self.not_honoured else "",
        ]
        told = "; ".join(part for part in parts if part)
        return (f"{FILE}: {told}",) if told else ()

    def processors(self, prompt: list[int], max_length: int, options: SamplingOptions) -> StepProcessors | None:
        """Of one request; None where the folder leaves its logits as they are."""
        if not self.steps:
            return None
        now = Situation(torch.tensor(prompt, device=self._ends.device), max_length, self._ends)
        first, following = self._made(FIRST, now), self._made(NEXT, now, options.min_tokens is not None)
        warpers = self._warpers(options, now) if options.temperature else []
        return StepProcessors(first, following, warpers) if first or following or warpers else None

    def _warpers(self, options: SamplingOptions, now: Situation) -> list[Any]:
        """All that follow the temperature, if one of them is the folder's."""
        last = self._made(WARPERS, now)
        top_h = self._made(TOP_H, now)
        if not last and not top_h:
            return []
        between: list[Any] = []
        if options.top_k:
            between.append(library.TopKLogitsWarper(options.top_k))
        if options.top_p is not None and options.top_p < 1:
            between.append(library.TopPLogitsWarper(options.top_p))
        if options.min_p:
            between.append(library.MinPLogitsWarper(options.min_p))
        return [*top_h, *between, *last]

    def _made(self, kinds: Mapping[str, Make], now: Situation, says_least: bool = False) -> list[Any]:
        """`says_least`: the request itself says how long its text is at least."""
        skipped = ("min_length", "min_new_tokens") if says_least or not len(self._ends) else ()
        return [
            make(self.steps[name], now) for name, make in kinds.items() if name in self.steps and name not in skipped
        ]

    def _can_make(self, name: str, value: Any, trial: Situation) -> bool:
        try:
            STEPS[name](value, trial)
        except Exception:
            log.warning("%s: %s has a value that transformers does not take", FILE, name, exc_info=True)
            return False
        return True


def _says(value: object, off: object) -> bool:
    """Whether the value does something; `off` is one that does nothing."""
    return value is not None and value is not False and value not in ([], {}, off)
