#!/bin/bash
# transformers 5.23.0 with sentencepiece 0.2.3. Of a folder whose tokenizer is a tokenizer.model alone, `AutoTokenizer` makes a
# `tokenizers` tokenizer. Where the model type has no class of its own for that (Mistral, Phi-3), the conversion leaves out the
# space that the model was trained to see before every text (`add_dummy_prefix` of its normalizer).
# Guessed otherwise: that the converted tokenizer gives the tokens that sentencepiece gives.
# Seen (exit 0 while it is so):
#   sentencepiece 0.2.3: ['▁once', '▁up', 'on']
#   transformers 5.23.0, TokenizersBackend: ['on', 'ce', '▁up', 'on']
#   transformers 5.23.0, LlamaTokenizer: ['▁once', '▁up', 'on']
# Here it touches deployments/engines/text/folder/sentencepiece_model.py, which adds the space.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 sentencepiece==0.2.3 protobuf==7.36.2
cd "$folder"
"$folder/venv/bin/python" - 2> "$folder/warnings" <<'PYTHON'
import json
from pathlib import Path

import sentencepiece
import transformers
from transformers import AutoTokenizer

with open("tokenizer.model", "wb") as file:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["once upon a time"] * 9), model_writer=file, vocab_size=280, model_type="bpe",
        byte_fallback=True, hard_vocab_limit=False, minloglevel=2,
    )
own = sentencepiece.SentencePieceProcessor("tokenizer.model").encode("once upon", out_type=str)
print(f"sentencepiece {sentencepiece.__version__}: {own}")
seen = []
for kind, options in (("mistral", {}), ("llama", {"tokenizer_class": "LlamaTokenizer"})):
    Path("config.json").write_text(json.dumps({"model_type": kind}))
    Path("tokenizer_config.json").write_text(json.dumps(options))
    tokenizer = AutoTokenizer.from_pretrained(".", local_files_only=True)
    seen.append(tokenizer.convert_ids_to_tokens(tokenizer.encode("once upon", add_special_tokens=False)))
    print(f"transformers {transformers.__version__}, {type(tokenizer).__name__}: {seen[-1]}")
raise SystemExit(seen[0] == own or seen[1] != own)
PYTHON
