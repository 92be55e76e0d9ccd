#!/bin/bash
# ctranslate2 4.8.5, as faster-whisper 1.2.1 uses it. Whisper.generate(max_length=N) ends a text after N // 2 tokens, or after
# N less the prompt's if that is fewer. faster-whisper's max_new_tokens=M asks for max_length = M + the prompt's length, and so
# gets about half of M; a text of more than 224 tokens in one window is cut without a word.
# Guessed otherwise: that max_new_tokens is the number of new tokens at most, as its docstring says and as it is in transformers.
# Seen (exit 0 while it is so):
#   ctranslate2 4.8.5: max_new_tokens=96 gives 96 tokens in transformers and 49 in faster-whisper; max_length=100 with a prompt
#   of 4 gives 50
# Here it touches benchmarks/families/peers/whisper.py, which asks for twice as many tokens as the others are asked for.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check ctranslate2==4.8.5 faster-whisper==1.2.1 \
  torch==2.13.0 transformers==5.23.0 numpy==2.4.6
FOLDER=$folder "$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import json
import os
from pathlib import Path

import ctranslate2
import numpy
import tokenizers
import torch
import transformers
from ctranslate2.converters import TransformersConverter
from faster_whisper import WhisperModel
from transformers.models.whisper.tokenization_whisper import LANGUAGES

folder = Path(os.environ["FOLDER"], "model")
folder.mkdir()
letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
words = [*letters, *(f"Ġ{n:x}" for n in range(50_257 - len(letters))), "<|endoftext|>"]
(folder / "vocab.json").write_text(json.dumps({word: n for n, word in enumerate(words)}))
(folder / "merges.txt").write_text("#version: 0.2\n")
tokenizer = transformers.WhisperTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
tasks = ("translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps")
names = [f"<|{name}|>" for name in ("startoftranscript", *list(LANGUAGES)[:99], *tasks)]
tokenizer.add_special_tokens({"additional_special_tokens": names})
tokenizer.add_tokens([f"<|{n * 0.02:.2f}|>" for n in range(1501)])
tokenizer.save_pretrained(folder)
start, end = tokenizer.convert_tokens_to_ids(["<|startoftranscript|>", "<|endoftext|>"])
torch.manual_seed(0)
config = transformers.WhisperConfig(
    d_model=64, encoder_layers=1, decoder_layers=1, encoder_attention_heads=1, decoder_attention_heads=1,
    encoder_ffn_dim=64, decoder_ffn_dim=64, vocab_size=len(tokenizer), decoder_start_token_id=start,
    eos_token_id=end, pad_token_id=end, bos_token_id=end,
)  # fmt: skip
model = transformers.WhisperForConditionalGeneration(config).eval()
model.generation_config.no_timestamps_token_id = tokenizer.convert_tokens_to_ids("<|notimestamps|>")
model.generation_config.is_multilingual = True
model.generation_config.lang_to_id = {name: tokenizer.convert_tokens_to_ids(name) for name in names[1:100]}
model.generation_config.task_to_id = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in tasks[:2]}
model.generation_config._from_model_config = False  # else it is not read when the folder is loaded
model.save_pretrained(folder)
extractor = transformers.WhisperFeatureExtractor()
extractor.save_pretrained(folder)
place = folder.parent / "converted"
TransformersConverter(str(folder), copy_files=["tokenizer.json", "preprocessor_config.json"]).convert(str(place))

sound = numpy.random.default_rng(0).normal(0, 0.1, 16_000 * 30).astype("float32")
steering = list(range(50_257, len(tokenizer)))  # none of them, and no end: only words
features = extractor(sound, sampling_rate=16_000, return_tensors="pt").input_features
prompt = [start, *tokenizer.convert_tokens_to_ids(["<|en|>", "<|transcribe|>", "<|notimestamps|>"])]
library = model.generate(features, decoder_input_ids=torch.tensor([prompt]), max_new_tokens=96, suppress_tokens=steering)
whisper = WhisperModel(str(place), device="cpu", compute_type="float32", local_files_only=True)
segments, _ = whisper.transcribe(
    sound, language="en", beam_size=1, temperature=0.0, compression_ratio_threshold=None, log_prob_threshold=None,
    no_speech_threshold=None, suppress_blank=False, suppress_tokens=steering, without_timestamps=True, max_new_tokens=96,
)  # fmt: skip
[segment] = segments
direct = whisper.model.generate(
    ctranslate2.StorageView.from_array(features.numpy()), [prompt], beam_size=1, max_length=100, suppress_tokens=steering
)
written = library.shape[1] - (len(prompt) if library[0, 0] == start else 0)
counts = written, len(segment.tokens), len(direct[0].sequences_ids[0])
print(
    f"ctranslate2 {ctranslate2.__version__}: max_new_tokens=96 gives {counts[0]} tokens in transformers and {counts[1]} in "
    f"faster-whisper; max_length=100 with a prompt of 4 gives {counts[2]}"
)
raise SystemExit(counts != (96, 49, 50))
PYTHON
