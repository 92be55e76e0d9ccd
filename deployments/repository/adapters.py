"""Adapters of models of the same repository: which is their base, and what of their configuration counts.

A LoRA adapter of a model that is served is served as a model of its own: its base with the adapter merged into it.
"""

import json
import os
import re
import shutil
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from deployments.repository.diagnosis import adapted
from deployments.repository.folder import ADAPTER, files_of, read_adapter
from deployments.repository.manifest import Unservable
from deployments.repository.model import Model

WEIGHTS = "adapter_model.safetensors"
MERGED = "adapter"
"""The folder beside a base's files in which its adapter lies."""
_FIELDS = frozenset(
    {"peft_type", "task_type", "r", "lora_alpha", "target_modules", "rank_pattern", "alpha_pattern", "use_rslora"}
    | {"use_dora", "fan_in_fan_out", "bias", "lora_bias", "modules_to_save", "layers_to_transform", "layers_pattern"}
)
"""The fields of adapter_config.json that decide how to merge; the others are for training, or load modules by name."""
_NAME = re.compile(r"[\w.]+")
_EXAMPLES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
"""Of files that golden examples name."""
_TOKENIZER = re.compile(r"(tokenizer.*|.*\.jinja|special_tokens_map\.json|added_tokens\.json|vocab.*|merges\.txt)")


def base_of(config: Mapping[str, object], names: Collection[str]) -> str:
    """The base that an adapter names, by its adapter_config.json and the names of its files. Raises Unservable where it
    cannot be merged."""
    merging_config(config)
    if WEIGHTS not in names:
        raise Unservable(f"{adapted(config)}; it has no {WEIGHTS}")
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise Unservable(adapted(config))
    return base


def merging_config(config: Mapping[str, object]) -> dict[str, object]:
    """What counts of an adapter_config.json. Raises Unservable for other kinds than LoRA, and for patterns: they are
    regular expressions, which may take any time."""
    if config.get("peft_type") != "LORA":
        raise Unservable(f"{adapted(config)}; only LoRA adapters are served")
    fields = {name: value for name, value in config.items() if name in _FIELDS}
    patterns = [fields.get("target_modules"), fields.get("modules_to_save")]
    ranks = [key for name in ("rank_pattern", "alpha_pattern") for key in _mapping(fields.get(name))]
    named = [name for names in (*patterns, ranks) for name in (names if isinstance(names, list) else [names])]
    if not all(name is None or (isinstance(name, str) and (_is_name(name))) for name in named):
        raise Unservable(f"{adapted(config)}; its modules are named by patterns")
    return fields


def with_base(model: Model, models: Mapping[str, Model]) -> Model:
    """An adapter with the fields of its base among `models`, which are no adapters. `weight_bytes` are its own, or with
    those of the base that it had."""
    assert model.adapter_of is not None
    own, base = model.own_digest, _find(model.adapter_of, models)
    own_bytes = model.weight_bytes - (model.base.weight_bytes if model.base else 0)
    if base is None or base.problem is not None:
        missing = adapted({"peft_type": "LORA", "base_model_name_or_path": model.adapter_of})
        why = f"{missing}; or put its base into the repository"
        return replace(model, digest=own, family=None, base=None, weight_bytes=own_bytes, problem=why)
    return replace(
        model,
        digest=f"{own}-{base.digest}",
        family=base.family,
        base=base,
        weight_bytes=base.weight_bytes + own_bytes,
        context=base.context,
        generation=base.generation,
        problem=None,
    )


def join(adapter: Path, base: Path, place: Path) -> Path:
    """A folder of links: the base's files, the adapter's tokenizer if it has one, and the adapter in MERGED. `place`
    stands for both contents. Raises Unservable, OSError.
    """
    if place.is_dir():
        return place
    draft = place.with_name(f".{place.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    (draft / MERGED).mkdir(parents=True)
    own = {name: adapter / name for name, _ in files_of(adapter)}
    tokenizer = {name: file for name, file in own.items() if _TOKENIZER.fullmatch(name)}
    if not any(name.startswith(("tokenizer.json", "tokenizer.model", "vocab")) for name in tokenizer):
        tokenizer = {}
    files = {name: base / name for name, _ in files_of(base) if not (tokenizer and _TOKENIZER.fullmatch(name))}
    examples = {name: file for name, file in own.items() if file.suffix in _EXAMPLES}
    for name, file in (examples | files | tokenizer).items():
        (draft / name).parent.mkdir(parents=True, exist_ok=True)
        (draft / name).symlink_to(file.resolve())
    config = json.dumps(merging_config(read_adapter(adapter)) | {"inference_mode": True}, sort_keys=True)
    (draft / MERGED / ADAPTER).write_text(config)
    (draft / MERGED / WEIGHTS).symlink_to((adapter / WEIGHTS).resolve())
    # Whoever caches by the weights of a folder has to see the adapter's too.
    (draft / f"{MERGED}.safetensors").symlink_to((adapter / WEIGHTS).resolve())
    (draft / f"{MERGED}.safetensors.json").write_text(config)
    with suppress(OSError):  # Another process has made it meanwhile.
        draft.rename(place)
    shutil.rmtree(draft, ignore_errors=True)
    return place


def _find(base: str, models: Mapping[str, Model]) -> Model | None:
    """By the name that the adapter gives it, else the only one whose name ends like it."""
    if (exact := models.get(base)) is not None:
        return exact
    last = base.rstrip("/").rpartition("/")[2]
    alike = {model.model_id for model in models.values() if model.model_id.rpartition("/")[2] == last}
    return models.get(alike.pop()) if len(alike) == 1 else None


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _is_name(name: str) -> bool:
    return bool(_NAME.fullmatch(name)) or name == "all-linear"
