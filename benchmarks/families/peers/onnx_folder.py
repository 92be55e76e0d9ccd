"""A folder as fastembed takes it, model.onnx in float32 beside the tokenizer's files: onnx_folder.py MODEL PLACE."""

import json
import shutil
import sys
from pathlib import Path

import torch
from transformers import AutoModel


class Hidden(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, token_type_ids):
        return self.model(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        ).last_hidden_state


def main():
    folder, place = map(Path, sys.argv[1:])
    place.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(folder / name, place)
    # fastembed cuts where tokenizer_config.json says, sentence-transformers where sentence_bert_config.json does.
    settings = json.loads((place / "tokenizer_config.json").read_text())
    settings["model_max_length"] = json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"]
    (place / "tokenizer_config.json").write_text(json.dumps(settings))
    model = Hidden(AutoModel.from_pretrained(folder)).eval()
    ids = torch.ones(3, 7, dtype=torch.long)
    sizes = {0: torch.export.Dim("texts", min=1, max=4096), 1: torch.export.Dim("tokens", min=1, max=512)}
    torch.onnx.export(
        model,
        (ids, ids, torch.zeros_like(ids)),
        place / "model.onnx",
        input_names=["input_ids", "attention_mask", "token_type_ids"],
        output_names=["last_hidden_state"],
        dynamic_shapes=(sizes, sizes, sizes),
        dynamo=True,
    )


if __name__ == "__main__":
    main()
