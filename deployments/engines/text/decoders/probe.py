"""Whether a decoder gives the logits of the model's plain forward: on two prompts of unlike length, side by side."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from deployments.engines.text.decoders.decoder import Decoder
from deployments.engines.text.decoders.model import CausalModel, inputs_of

LENGTHS = (40, 20)
"""Tokens of the prompts: more than a block of any KV cache has, and more than a short window."""
STEPS = 2
TOLERANCE = {torch.float32: 1e-3}
"""Of the largest logit. In 16 bits COARSE."""
COARSE = 0.1


def tolerance(dtype: torch.dtype, logits: Tensor) -> float:
    return TOLERANCE.get(dtype, COARSE) * float(logits.abs().max())


@dataclass(frozen=True, slots=True)
class Probe:
    """`prompts`, and the plain forward's logits [tokens, vocabulary] of each."""

    prompts: list[list[int]]
    logits: list[Tensor]
    dtype: torch.dtype

    @classmethod
    def of(cls, loaded: CausalModel) -> "Probe":
        prompts = probe_prompts(loaded.vocabulary, loaded.context)
        with torch.inference_mode():
            logits = [loaded.model(**inputs_of(loaded.model, prompt)).logits[0].float() for prompt in prompts]
        return cls(prompts, logits, loaded.model.dtype)

    def reads_ahead(self, loaded: CausalModel) -> bool:
        """Whether a token changes the logits of earlier ones: then the model is none that continues texts."""
        with torch.inference_mode():
            early = loaded.model(**inputs_of(loaded.model, self.prompts[0][:-1])).logits[0]
        return not self._close(self.logits[0][: len(early)], early.float())

    def generates(self, decoder: Decoder, loaded: CausalModel) -> bool:
        """Whether its logits are those of `generate`, whose cache may compute otherwise than a plain forward."""
        prompt = self.prompts[0] * 2 if 2 * LENGTHS[0] + STEPS < loaded.context else self.prompts[1]
        ids = torch.tensor([prompt], device=loaded.model.device)
        asked = GenerationConfig(max_new_tokens=STEPS + 1, do_sample=False, pad_token_id=0)
        asked.output_logits = asked.return_dict_in_generate = True
        wanted: Any = loaded.model.generate(  # type: ignore[operator]  # transformers types it as a tensor
            ids, attention_mask=torch.ones_like(ids), generation_config=asked
        )
        try:
            found = [decoder.prefill([prompt]).logits[0]]
            for token in wanted.sequences[0, len(prompt) : -1].tolist():
                found.append(decoder.step([token]).logits[0])
        finally:
            decoder.clear()
        pairs = zip(wanted.logits, found, strict=True)
        return all(self._close(one[0].float(), other) for one, other in pairs)

    def matches(self, decoder: Decoder, rounded: bool = False) -> bool:
        """Whether its logits are the plain ones but for rounding. Raises what it raises. `rounded`: its weights are, so
        its logits have to be finite only.

        The decoder is empty before and after.
        """
        (long, short), (a, b) = self.prompts, (len(prompt) - STEPS for prompt in self.prompts)
        try:
            with torch.inference_mode():
                decoder.prefill([short[:1]])
                first = decoder.prefill([long[:a], short[:b]]).logits
                outputs = [(0, a - 1, first[0]), (1, b - 1, first[1])]
                decoder.release(0)  # The short row is now row 0, the long one row 1.
                for n in range(STEPS):
                    logits = decoder.step([short[b + n], long[a + n]]).logits.clone()
                    outputs += [(1, b + n, logits[0]), (0, a + n, logits[1])]
        finally:
            decoder.clear()
        if rounded:
            return all(bool(found.isfinite().all()) for _, _, found in outputs)
        return all(self._close(self.logits[prompt][place], found) for prompt, place, found in outputs)

    def _close(self, wanted: Tensor, found: Tensor) -> bool:
        return bool(((wanted - found).abs() <= tolerance(self.dtype, wanted)).all())


def probe_prompts(vocabulary: int, context: int) -> list[list[int]]:
    """Two of unlike length that fit the context."""
    long, short = LENGTHS if context > max(LENGTHS) else (context - 1, max(STEPS + 1, (context - 1) // 2))
    return [[(seed * 7919 + 31 * n) % vocabulary for n in range(size)] for seed, size in ((1, long), (2, short))]
