#!/bin/bash
# tokenizers 0.23.3 beside sentencepiece 0.2.3. The decoder `ByteFallback` judges a run of byte tokens as a whole: one byte that
# is missing at its end, or is wrong, makes every byte of the run U+FFFD, whole characters before it included. sentencepiece,
# from which the tokens come, keeps the whole characters. A text that is cut by a number of tokens loses what was shown.
# Guessed otherwise: that a byte that is no character costs one character, as when bytes are decoded with errors="replace".
# Seen (exit 0 while it is so):
#   sentencepiece 0.2.3: 'a 猫猫��'
#   tokenizers 0.23.3: 'a ��������'
# Here it touches deployments/engines/text/spelling/streams.py, which keeps the characters that are whole at a text's end.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tokenizers==0.23.3 sentencepiece==0.2.3
"$folder/venv/bin/python" - <<'PYTHON'
import importlib.metadata
import io

import sentencepiece
from tokenizers import decoders

model = io.BytesIO()
sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(["once upon a time"] * 9), model_writer=model, vocab_size=300, byte_fallback=True,
    hard_vocab_limit=False, minloglevel=2,
)
source = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
ids = source.encode("a 猫猫猫")[:-1]
decoder = decoders.Sequence(
    [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
)
theirs, ours = source.decode(ids), decoder.decode([source.id_to_piece(token) for token in ids])
print(f"sentencepiece {importlib.metadata.version('sentencepiece')}: {theirs!r}")
print(f"tokenizers {importlib.metadata.version('tokenizers')}: {ours!r}")
raise SystemExit(not (theirs == "a 猫猫\ufffd\ufffd" and ours == "a " + "\ufffd" * 8))
PYTHON
