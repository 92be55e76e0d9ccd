#!/bin/bash
# transformers 5.23.0 with torch 2.13.0. The speech pipeline with return_timestamps="word" and return_language=True puts the language's
# token before the tokens that `generate` gave, but no time before their times. Every word then has the times of the token after it,
# and where the text does not end with a token of time, an IndexError comes instead of an answer.
# Guessed otherwise: that asking for the language too changes no time.
# Seen (exit 0 while it is so):
#   transformers 5.23.0, without the language: 'a' 0.0 to 0.2, 'b' 0.2 to 0.6
#   transformers 5.23.0, with the language: 'a' 0.1 to 0.5, 'b' 0.5 to 1.0
#   transformers 5.23.0, with the language, no time at the end: IndexError
# Here it touches deployments/engines/audio/word_times.py, which puts a time before the times too: without its language a text in
# Chinese or Japanese is one word.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0
cd "$folder"
"$folder/venv/bin/python" - 2> "$folder/warnings" <<'PYTHON'
import json

import numpy as np
import torch
import transformers
from transformers import AutomaticSpeechRecognitionPipeline, WhisperConfig, WhisperFeatureExtractor, WhisperTokenizer
from transformers import WhisperForConditionalGeneration

with open("vocab.json", "w") as file:
    json.dump({"Ġ": 0, "a": 1, "b": 2, "<|endoftext|>": 3}, file)
with open("merges.txt", "w") as file:
    file.write("#version: 0.2\n")
tokenizer = WhisperTokenizer("vocab.json", "merges.txt")
steering = ["<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|startofprev|>", "<|notimestamps|>"]
tokenizer.add_special_tokens({"additional_special_tokens": steering})
tokenizer.add_tokens([f"<|{n * 0.02:.2f}|>" for n in range(1501)])
number = tokenizer.convert_tokens_to_ids
names = ["<|0.00|>", "Ġ", "a", "Ġ", "b", "<|1.00|>"]
times = torch.tensor([[0.0, 0.1, 0.2, 0.5, 0.6, 1.0]])
prompt = [number(name) for name in steering[:3]]
small = {"encoder_layers": 1, "decoder_layers": 1, "d_model": 16, "encoder_attention_heads": 1, "decoder_attention_heads": 1}
small |= {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "pad_token_id": 3, "bos_token_id": 3, "eos_token_id": 3}
config = WhisperConfig(**small, vocab_size=len(tokenizer), decoder_start_token_id=prompt[0])
model = WhisperForConditionalGeneration(config).eval()
model.generation_config.lang_to_id = {"<|en|>": number("<|en|>")}


def answer(length, **options):
    """Of the pipeline, where the model has written so many of the tokens."""
    tokens = torch.tensor([[number(name) for name in names[:length]]])
    whole = {"sequences": torch.tensor([*prompt, *tokens[0].tolist()])}
    segment = {"token_timestamps": times[0, :length], "result": whole}
    model.generate = lambda **_: {"sequences": tokens, "segments": [[segment]]}
    recognise = AutomaticSpeechRecognitionPipeline(model, WhisperFeatureExtractor(), tokenizer, device="cpu")
    try:
        found = recognise(np.zeros(16_000, np.float32), return_timestamps="word", **options)["chunks"]
    except IndexError:
        return "IndexError"
    return ", ".join("{!r} {} to {}".format(one["text"].strip(), *one["timestamp"]) for one in found)


seen = [answer(6), answer(6, return_language=True), answer(5, return_language=True)]
said = ("without the language", "with the language", "with the language, no time at the end")
for which, words in zip(said, seen, strict=True):
    print(f"transformers {transformers.__version__}, {which}: {words}")
raise SystemExit(seen != ["'a' 0.0 to 0.2, 'b' 0.2 to 0.6", "'a' 0.1 to 0.5, 'b' 0.5 to 1.0", "IndexError"])
PYTHON
