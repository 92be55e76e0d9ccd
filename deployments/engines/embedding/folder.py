"""The settings of embeddings in a folder: modules, prompts, the longest text. Reads JSON only.

The files are those of sentence-transformers. A folder without a modules.json is a plain encoder, and its
tokens are averaged.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from deployments.contract.errors import ModelLoadFailed, quoted

MODULES = "modules.json"
SETTINGS = "config_sentence_transformers.json"
TEXT_SETTINGS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""Where the encoder's settings stand, by the name of its first user. The first one that is not empty holds."""
MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Ways to pool, by the names that they had as flags, in the order in which several are joined."""


@dataclass(frozen=True, slots=True)
class Module:
    """A module after the pooling."""

    kind: str
    folder: Path
    config: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class EmbeddingFolder:
    modes: tuple[str, ...] = ("mean",)
    """How the vectors of a text's tokens become one; those of several ways are joined."""
    include_prompt: bool = True
    """Whether the tokens of a prompt are pooled too."""
    modules: tuple[Module, ...] = ()
    prompts: Mapping[str, str] = field(default_factory=lambda: {"query": "", "document": ""})
    default_prompt: str = ""
    dimensions: int | None = None
    """So many of a vector's values are the answer to a request that leaves it out."""
    max_tokens: int | None = None
    lowercase: bool = False

    @classmethod
    def read(cls, folder: Path) -> "EmbeddingFolder":
        """Raises ModelLoadFailed for what is not computed here."""
        if not (folder / MODULES).is_file():
            return cls(modes=("lasttoken" if _continues_texts(_json(folder / "config.json")) else "mean",))
        listed = [(_kind(module), _inner(folder, module.get("path", ""))) for module in _json(folder / MODULES)]
        kinds = [kind for kind, _ in listed]
        if kinds[:2] != ["Transformer", "Pooling"] or listed[0][1] != folder:
            raise ModelLoadFailed(f"modules.json does not begin with an encoder and its pooling: {', '.join(kinds)}")
        modules = tuple(Module(kind, place, _json(place / "config.json")) for kind, place in listed[2:])
        if unknown := [kind for kind in kinds[2:] if kind not in ("Dense", "LayerNorm", "Dropout", "Normalize")]:
            raise ModelLoadFailed(f"modules.json has a module that is not computed here: {quoted(unknown[0])}")
        settings: Mapping[str, Any] = _json(folder / SETTINGS)
        text: Mapping[str, Any] = next(filter(None, (_json(folder / name) for name in TEXT_SETTINGS)), {})
        if (kind := settings.get("model_type", "SentenceTransformer")) != "SentenceTransformer":
            raise ModelLoadFailed(f"it is a {quoted(str(kind))} of sentence-transformers, which gives no embeddings")
        task, inputs = text.get("transformer_task", "feature-extraction"), text.get("modality_config", {})
        if task != "feature-extraction" or "message" in inputs:
            raise ModelLoadFailed("the folder's texts are put into a chat template, which is not done here")
        pooling = _json(listed[1][1] / "config.json")
        prompts = {"query": "", "document": ""} | {k: v or "" for k, v in (settings.get("prompts") or {}).items()}
        default = settings.get("default_prompt_name")
        if default is not None and default not in prompts:
            raise ModelLoadFailed(f"{SETTINGS} has no prompt {quoted(str(default))}, which default_prompt_name names")
        return cls(
            modes=_modes(pooling),
            include_prompt=pooling.get("include_prompt", True),
            modules=modules,
            prompts=prompts,
            default_prompt=prompts.get(default, ""),
            dimensions=settings.get("truncate_dim"),
            max_tokens=text.get("max_seq_length"),
            lowercase=bool(text.get("do_lower_case")),
        )


def _continues_texts(config: Mapping[str, Any]) -> bool:
    """Whether only the last token has seen the whole text."""
    named = str((config.get("architectures") or [""])[0])
    return named.endswith("ForCausalLM") and bool(config.get("is_causal", True))


def _kind(module: Mapping[str, Any]) -> str:
    """The last part of the type: the packages before it changed their names."""
    return str(module.get("type")).rpartition(".")[2]


def _inner(folder: Path, path: str) -> Path:
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise ModelLoadFailed("modules.json names a folder outside the model's")
    return folder / path


def _modes(pooling: Mapping[str, Any]) -> tuple[str, ...]:
    """By the one key that newer folders have, else by flags."""
    named = pooling.get("pooling_mode") or [mode for flag, mode in MODES.items() if pooling.get(flag)] or "mean"
    modes = (named,) if isinstance(named, str) else tuple(named)
    if unknown := [mode for mode in modes if mode not in MODES.values()]:
        raise ModelLoadFailed(f"the folder pools by {quoted(str(unknown[0]))}, which is not known here")
    return modes


def _json(file: Path) -> Any:
    return json.loads(file.read_bytes()) if file.is_file() else {}
