#!/bin/bash
# transformers 5.23.0. `apply_chat_template(…, sanitize_control_tokens=True)` marks control tokens in messages with characters
# beside them. Templates strip what stands beside a control token: Qwen3's takes an earlier thought out with
# `content.split('</think>')[-1].lstrip('\n')`. The mark stands before the newlines, and they stay.
# Guessed otherwise: that messages without a forged control token have the same tokens, sanitised or not.
# Seen (exit 0 while it is so):
#   transformers 5.23.0: plain '<s>yes', sanitised '<s>\n\nyes'
# Here it touches deployments/engines/text/chat_template_worker.py, which renders such a chat twice.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 jinja2==3.1.6
"$folder/venv/bin/python" - 2> "$folder/warnings" <<'PYTHON'
import importlib.metadata

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

alphabet = {character: number for number, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
backend = Tokenizer(models.BPE(alphabet, []))
backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
backend.add_special_tokens(["<s>"])
backend.add_tokens([AddedToken("<think>"), AddedToken("</think>")])
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
tokenizer.chat_template = (
    "{% for message in messages %}{% set content = message.content %}{% if '</think>' in content %}"
    "{% set content = content.split('</think>')[-1].lstrip('\\n') %}{% endif %}{{ '<s>' + content }}{% endfor %}"
)
chat = [{"role": "assistant", "content": "<think>\nIs it?\n</think>\n\nyes"}]
plain, sanitised = (
    tokenizer.decode(tokenizer.apply_chat_template(chat, return_dict=False, sanitize_control_tokens=sanitise))
    for sanitise in (False, True)
)
print(f"transformers {importlib.metadata.version('transformers')}: plain {plain!r}, sanitised {sanitised!r}")
raise SystemExit(not (plain == "<s>yes" and sanitised == "<s>\n\nyes"))
PYTHON
