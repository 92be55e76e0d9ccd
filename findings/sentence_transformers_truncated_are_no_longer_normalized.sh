#!/bin/bash
# sentence-transformers 6.2.0. A folder whose last module is Normalize gives vectors of length 1. With `truncate_dim`, of the model or
# of a call, they are cut after that module and stay shorter, and nothing says so: an index that takes the dot product for the
# cosine ranks by how much of each vector lay in its first dimensions. `normalize_embeddings=True`, which such a folder otherwise
# makes superfluous, mends it.
# Guessed otherwise: that a folder which normalizes has vectors of length 1 whatever their size, as OpenAI's `dimensions` gives.
# Seen (exit 0 while it is so):
#   sentence-transformers 6.2.0, last module Normalize
#   length 1.000; truncate_dim=4 0.567; truncate_dim=4, normalize_embeddings=True 1.000
# Here it touches docs/text-embedding.md: `dimensions` of a request gives length 1 unless `normalize` is false.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 \
  sentence-transformers==6.2.0
cd "$folder"
"$folder/venv/bin/python" - 2> "$folder/warnings" <<'PYTHON'
import numpy as np
import sentence_transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding
from tokenizers import Tokenizer, models, pre_tokenizers

tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "text": 2}, unk_token="[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
weights = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights), Normalize()], device="cpu").save("saved")
model = SentenceTransformer("saved", device="cpu")


def length(**options: object) -> float:
    return round(float(np.linalg.norm(model.encode("a text", **options))), 3)


whole, cut, mended = length(), length(truncate_dim=4), length(truncate_dim=4, normalize_embeddings=True)
print(f"sentence-transformers {sentence_transformers.__version__}, last module {type(model[-1]).__name__}")
print(f"length {whole:.3f}; truncate_dim=4 {cut:.3f}; truncate_dim=4, normalize_embeddings=True {mended:.3f}")
raise SystemExit(not (whole == mended == 1 and cut < 0.99))
PYTHON
