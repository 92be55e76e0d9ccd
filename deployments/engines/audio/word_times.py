"""When each word of a window was said, by the attention of Whisper's decoder to the sound. The library's own ways."""

import copy
from contextlib import ExitStack
from typing import Any

import torch
from transformers.generation.utils import GenerateEncoderDecoderOutput

from deployments.contract.speech import SpeechSegment

TIME_PRECISION_S = 0.02
"""What a position of the encoded sound stands for."""


class WordTimes:
    """The folder's `alignment_heads` are those whose attention follows the sound.

    A window's tokens are computed once more, together: the library keeps the attention of all heads and both networks
    while it writes (6 GB for a window of large-v3), for which it stops using fused attention.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model: Any = model
        self._tokenizer: Any = tokenizer
        heads = getattr(model.generation_config, "alignment_heads", None) or ()
        self._heads = [(int(layer), int(head)) for layer, head in heads]
        self._eager = copy.copy(model.config)
        self._eager._attn_implementation = "eager"  # the one that gives the attention
        self.fault = self._fault()
        """Why there are none, as the end of a sentence."""

    def _fault(self) -> str | None:
        if not self._heads:
            return "generation_config.json names no alignment_heads"
        config = self._model.config
        for layer, head in self._heads:
            if not (0 <= layer < config.decoder_layers and 0 <= head < config.decoder_attention_heads):
                return f"its alignment_heads name [{layer}, {head}], which it has not"
        return None if hasattr(self._tokenizer, "_decode_asr") else "its tokenizer is not Whisper's"

    def add(self, window: dict[str, Any], sound: torch.Tensor, frames: int) -> None:
        """Adds the times of its tokens to a window of which the library is about to make segments.

        `sound`: [1, positions, width], the encoded window. `frames`: of the whole sound, without what fills it up.
        """
        output, prompt = window["seek_outputs"][window["idx"]], window["decoder_input_ids"].shape[-1]
        before = float(window["time_offset"][window["prev_idx"]]) * window["input_stride"] / window["time_precision"]
        tokens = output["sequences"][None]
        attention = self._attention(tokens[:, :-1], sound)
        others = (attention[:, :0],) * (self._model.config.decoder_layers - 1)
        output["token_timestamps"] = self._model._extract_token_timestamps(
            GenerateEncoderDecoderOutput(sequences=tokens, cross_attentions=((attention, *others),)),
            [(0, number) for number in range(len(self._heads))],
            num_frames=max(2, frames - round(before)),
            num_input_ids=prompt,
        )[0]
        window["return_token_timestamps"] = True

    def words(self, segment: dict[str, Any], language: str | None, seconds: float) -> list[SpeechSegment]:
        """Of one of the library's segments. `language`: a code; some are written without spaces."""
        first = self._tokenizer.convert_tokens_to_ids([f"<|{language}|>"])
        tokens = torch.cat([torch.tensor(first), segment["tokens"].cpu()])
        times = torch.cat([torch.zeros(1), segment["token_timestamps"].cpu()])
        _, found = self._tokenizer._decode_asr(
            [{"tokens": tokens[None], "token_timestamps": times[None]}],
            return_timestamps="word",
            return_language=None,
            time_precision=TIME_PRECISION_S,
        )
        words = []
        for one in found["chunks"]:
            start, end = (min(max(0.0, time), round(seconds, 3)) for time in one["timestamp"])
            if text := one["text"].strip():
                words.append(SpeechSegment(start_s=start, end_s=end, text=text))
        return words

    def close(self) -> None:
        self._model = self._tokenizer = None

    def _attention(self, tokens: torch.Tensor, sound: torch.Tensor) -> torch.Tensor:
        """[1, alignment heads, tokens, positions of the sound]."""
        kept: dict[int, torch.Tensor] = {}

        def keep(module: Any, _: Any, output: tuple[Any, torch.Tensor]) -> None:
            heads = [head for layer, head in self._heads if layer == module.layer_idx]
            kept[module.layer_idx] = output[1][0, heads]

        decoder = self._model.model.decoder
        with ExitStack() as after:
            for number in {layer for layer, _ in self._heads}:
                module = decoder.layers[number].encoder_attn
                after.callback(setattr, module, "config", module.config)
                module.config = self._eager
                after.callback(module.register_forward_hook(keep).remove)
            decoder(input_ids=tokens, encoder_hidden_states=sound, use_cache=False)
        return torch.cat([kept[number] for number in sorted(kept)])[None]
