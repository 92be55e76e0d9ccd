#!/bin/bash
# sentence-transformers 6.2.0. `encode_document` is documented to use the first of the prompts "document", "passage" and "corpus" that
# the model has. Every model has "document", an empty one, unless its folder says otherwise: a folder with a prompt for passages
# only (as E5 models are described) has its documents encoded without it, while `encode_query` uses the folder's "query".
# Guessed otherwise: that `encode_document` puts the folder's "passage" before documents.
# Seen (exit 0 while it is so):
#   sentence-transformers 6.2.0, prompts {'query': 'query: ', 'document': '', 'passage': 'passage: '}
#   encode_query is encode(prompt_name="query"): True
#   encode_document is encode(prompt_name="passage"): False, encode() without a prompt: True
# Here it touches docs/text-embedding.md: `input_type` names a prompt, and "document" is not "passage".
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
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

words = ["[PAD]", "[UNK]", "query", "passage", ":", "a", "text"]
tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]").save_pretrained("encoder")
small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 7}
BertModel(BertConfig(**small)).save_pretrained("encoder")
prompts = {"query": "query: ", "passage": "passage: "}
layers = [Transformer("encoder"), Pooling(8)]
SentenceTransformer(modules=layers, device="cpu", prompts=prompts).save("saved")
model = SentenceTransformer("saved", device="cpu")
print(f"sentence-transformers {sentence_transformers.__version__}, prompts {model.prompts}")
same = lambda one, other: bool(np.allclose(one, other, atol=1e-6))
queries = same(model.encode_query("a text"), model.encode("a text", prompt_name="query"))
documents = model.encode_document("a text")
passages, bare = same(documents, model.encode("a text", prompt_name="passage")), same(documents, model.encode("a text"))
print(f'encode_query is encode(prompt_name="query"): {queries}')
print(f'encode_document is encode(prompt_name="passage"): {passages}, encode() without a prompt: {bare}')
raise SystemExit(not (queries and bare and not passages))
PYTHON
