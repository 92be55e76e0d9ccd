#!/bin/bash
# transformers 5.23.0 with sentencepiece 0.2.3. A tokenizer that runs on sentencepiece itself (`SentencePieceBackend`) decodes
# byte tokens to their names, although the model was trained with byte_fallback and sentencepiece decodes them to characters.
# Guessed otherwise: that a text survives being encoded and decoded by the same tokenizer.
# Seen (exit 0 while it is so):
#   sentencepiece 0.2.3: 'a 猫'
#   transformers 5.23.0, BertGenerationTokenizer: 'a <0xE7><0x8C><0xAB>'
# Here it touches deployments/engines/text/tokenizer.py, for folders whose tokenizer `tokenizers` cannot run.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 sentencepiece==0.2.3
cd "$folder"
"$folder/venv/bin/python" - 2> "$folder/warnings" <<'PYTHON'
import importlib.metadata

import sentencepiece
from transformers import BertGenerationTokenizer

with open("spiece.model", "wb") as model:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["once upon a time"] * 9), model_writer=model, vocab_size=300, byte_fallback=True,
        hard_vocab_limit=False, minloglevel=2,
    )
source = sentencepiece.SentencePieceProcessor(model_file="spiece.model")
tokenizer = BertGenerationTokenizer("spiece.model")
theirs = source.decode(source.encode("a 猫"))
ours = tokenizer.decode(tokenizer("a 猫").input_ids)
print(f"sentencepiece {importlib.metadata.version('sentencepiece')}: {theirs!r}")
print(f"transformers {importlib.metadata.version('transformers')}, BertGenerationTokenizer: {ours!r}")
raise SystemExit(not (theirs == "a 猫" and ours == "a <0xE7><0x8C><0xAB>"))
PYTHON
