#!/bin/bash
# transformers 5.23.0 with torch 2.13.0. A model with dynamic RoPE keeps the frequencies of the longest text that it has computed. They
# return to the loaded ones only for a text below the original length: a text beyond it that is shorter than an earlier one is
# computed with the earlier one's. So the same greedy prompt gives another text after a longer one, in the same model object.
# Guessed otherwise: that a greedy text is a function of the weights and the prompt.
# Seen (exit 0 while it is so):
#   transformers 5.23.0: a prompt of 40 tokens, original length 32: largest logit 4.54
#   largest difference of its logits after a text of 120 tokens: 4.02; after a text of 20 tokens as well: 0.00
# Here it touches deployments/engines/text/decoders/rotary.py, `reset_frequencies`: each row begins from the loaded frequencies.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0
cd "$folder"
"$folder/venv/bin/python" - 2> "$folder/warnings" <<'PYTHON'
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
model = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=99, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=32, initializer_range=0.3,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
    )
).eval()


@torch.inference_mode()
def logits(length):
    return model(input_ids=torch.arange(length)[None] * 7 % 90, use_cache=False).logits[0, -1]


fresh = logits(40)
logits(120)
after_long = (logits(40) - fresh).abs().max().item()
logits(20)
after_short = (logits(40) - fresh).abs().max().item()
print(
    f"transformers {transformers.__version__}: a prompt of 40 tokens, original length 32: largest logit "
    f"{fresh.abs().max():.2f}\nlargest difference of its logits after a text of 120 tokens: {after_long:.2f}; "
    f"after a text of 20 tokens as well: {after_short:.2f}"
)
raise SystemExit(after_long < 0.1 or after_short > 0.1)
PYTHON
