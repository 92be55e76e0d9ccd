"""The encoder of a folder: which class of transformers it is, and the vectors of tokens. Pads texts to one length."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModel, PretrainedConfig

from deployments.contract.errors import ModelLoadFailed, quoted
from deployments.engines.embedding.batching import EncodedText
from deployments.engines.loading import LOCAL, check_report, configuration, placed
from deployments.engines.vision.forward import storage_bytes

WITH_DECODER = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel"}
"""Of these model types the encoder has a class of its own."""


def load_encoder(folder: Path, device: str, dtype: str | None) -> Any:
    """In evaluation mode, without the pooler that no folder uses. Raises ModelLoadFailed."""
    config = configuration(folder)
    kind = _class_of(config)
    options = {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(kind.__init__).parameters else {}
    safe = LOCAL | {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
    if hasattr(config, "use_cache"):
        config.use_cache = False
    model, report = kind.from_pretrained(folder, config=config, dtype=dtype or "auto", **safe, **options)
    check_report(report)
    return placed(model, folder, device)


class EagerEncoder:
    """Vectors of tokens, float32 [texts, tokens, width], as transformers computes them.

    Raises ModelLoadFailed where the model gives none.
    """

    note = "PyTorch, eager"
    own_threads = False

    def __init__(self, model: Any) -> None:
        self.model = model
        self.device = model.device
        self.resident_bytes = storage_bytes(model)

    def __call__(self, arguments: Mapping[str, torch.Tensor]) -> torch.Tensor:
        outputs = self.model(**{name: tensor.to(self.device) for name, tensor in arguments.items()})
        hidden = getattr(outputs, "last_hidden_state", None)
        if hidden is None or hidden.shape[:2] != arguments["input_ids"].shape:
            raise ModelLoadFailed("the model gives no vectors of a text's tokens")
        vectors: torch.Tensor = hidden.float()
        return vectors


def _class_of(config: PretrainedConfig) -> Any:
    if name := WITH_DECODER.get(config.model_type):
        return getattr(transformers, name)
    kind = AutoModel._model_mapping.get(type(config), None)
    if not isinstance(kind, type) or config.is_encoder_decoder:
        raise ModelLoadFailed(f"a model of type {quoted(config.model_type)} gives no vectors of a text's tokens")
    return kind


def positions_of(model: Any) -> int | None:
    """The longest text that it has positions for; None where it has no table of them and config.json has no number."""
    for module in model.modules():
        table = getattr(module, "position_embeddings", None)
        if isinstance(table, torch.nn.Embedding):
            # RoBERTa's kind counts from behind the padding token.
            return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
    said = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return said if isinstance(said, int) and said > 0 else None


def padded(texts: Sequence[EncodedText], pad_id: int, pad_type_id: int) -> dict[str, torch.Tensor]:
    """Int64 [texts, tokens]: the arguments of the encoder."""
    longest = max(len(text.ids) for text in texts)

    def rows(of: Sequence[Sequence[int]], filler: int) -> torch.Tensor:
        return torch.tensor([[*row, *[filler] * (longest - len(row))] for row in of])

    arguments = {
        "input_ids": rows([text.ids for text in texts], pad_id),
        "attention_mask": rows([[1] * len(text.ids) for text in texts], 0),
    }
    if texts[0].type_ids:
        arguments["token_type_ids"] = rows([text.type_ids for text in texts], pad_type_id)
    return arguments
