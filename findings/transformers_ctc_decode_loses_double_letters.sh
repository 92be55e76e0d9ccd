#!/bin/bash
# transformers 5.23.0. A CTC tokenizer's decode(ids, skip_special_tokens=True) takes the blanks out, which are its padding token,
# before it groups repeated tokens. The blank between two equal letters is what keeps them two: HELLO becomes HELO.
# Guessed otherwise: that special tokens are left out of the text, as with every other tokenizer, and change nothing else.
# Seen (exit 0 while it is so):
#   transformers 5.23.0: without skip_special_tokens HELLO, with it HELO
# Here it touches deployments/engines/audio/spelling.py, which groups first and leaves special tokens out after that.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0
FOLDER=$folder "$folder/venv/bin/python" - <<'PYTHON'
import json
import os
import pathlib

import transformers

names = ["<pad>", "<s>", "</s>", "<unk>", "|", "H", "E", "L", "O"]
file = pathlib.Path(os.environ["FOLDER"], "vocab.json")
file.write_text(json.dumps({name: number for number, name in enumerate(names)}))
tokenizer = transformers.Wav2Vec2CTCTokenizer(str(file))
frames = [names.index(name) for name in ("H", "E", "L", "<pad>", "L", "O")]
kept, skipped = (tokenizer.decode(frames, skip_special_tokens=skip) for skip in (False, True))
print(f"transformers {transformers.__version__}: without skip_special_tokens {kept}, with it {skipped}")
raise SystemExit(not (kept == "HELLO" and skipped == "HELO"))
PYTHON
