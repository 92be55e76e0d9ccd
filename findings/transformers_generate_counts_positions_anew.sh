#!/bin/bash
# transformers 5.23.0 with torch 2.13.0. RoBERTa's kind of model counts positions from `padding_idx` + 1, and does so in its forward
# where no position ids are given. `generate` gives it position ids that begin with 0, so the same model, unpadded and greedy,
# gives other logits for the same prompt in both, from the first token on.
# Guessed otherwise: that the first token that `generate` chooses is the best one of a plain forward.
# Seen (exit 0 while it is so):
#   transformers 5.23.0, RobertaForCausalLM: largest logit 4.48, largest difference of generate's to the forward's 4.13
#   transformers 5.23.0, BertLMHeadModel: largest logit 5.44, largest difference of generate's to the forward's 0.00
# Here it touches deployments/engines/text/decoders/model.py, `inputs_of`: plain generation and the probe give the positions that
# `generate` gives.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0
cd "$folder"
"$folder/venv/bin/python" - 2> "$folder/warnings" <<'PYTHON'
import torch
import transformers
from transformers import BertConfig, BertLMHeadModel, RobertaConfig, RobertaForCausalLM

sizes = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
prompt = torch.tensor([[5, 6, 7, 8]])
differences = []
for kind, config in ((RobertaForCausalLM, RobertaConfig), (BertLMHeadModel, BertConfig)):
    torch.manual_seed(0)
    model = kind(config(**sizes, is_decoder=True, initializer_range=0.3)).eval()
    with torch.inference_mode():
        forward = model(input_ids=prompt).logits[0, -1]
    answer = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=1, do_sample=False, output_logits=True,
        return_dict_in_generate=True,
    )
    differences.append((answer.logits[0][0] - forward).abs().max().item())
    print(
        f"transformers {transformers.__version__}, {kind.__name__}: largest logit {forward.abs().max():.2f}, "
        f"largest difference of generate's to the forward's {differences[-1]:.2f}"
    )
raise SystemExit(differences[0] < 0.01 or differences[1] > 0.01)
PYTHON
