"""Folders that are no causal language model are refused in one line; dtypes are what they are called."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from deployments.contract.errors import ModelLoadFailed
from tests.support.text_models import (
    PROMPTS,
    VOCABULARY,
    Reference,
    ask,
    byte_level_tokenizer,
    load,
    save_model,
)


def _without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _set(name: str, **changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**config, **changes}))

    return change


BROKEN = {
    "no config": (_without("config.json"), "no config.json"),
    "no weights": (_without("model.safetensors"), "no safetensors"),
    "no tokenizer": (_without("tokenizer.json"), "tokenizer"),
    "cut weights": (lambda folder: (folder / "model.safetensors").write_bytes(b"\x08" + b"\0" * 20), "cannot be read"),
    "config is no JSON": (lambda folder: (folder / "config.json").write_text("{"), "cannot be read"),
    "unknown type": (_set("config.json", model_type="unheard_of"), "cannot be read"),
    "code in the folder": (
        _set("config.json", model_type="own", auto_map={"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}),
        "cannot be read",
    ),
    "another family": (_set("config.json", model_type="vit"), "does not continue texts"),
    "weights of another shape": (_set("config.json", hidden_size=64), "do not fit"),
    "more layers than weights": (_set("config.json", num_hidden_layers=3), "do not fit"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_folder_is_refused_in_one_line_without_a_path(fault: str, tmp_path: Path) -> None:
    break_it, why = BROKEN[fault]
    break_it(save_model(tmp_path, "llama"))
    before = set(threading.enumerate())
    with pytest.raises(ModelLoadFailed, match=why) as caught:
        load(tmp_path)
    assert "\n" not in caught.value.message
    assert str(tmp_path) not in caught.value.message
    assert set(threading.enumerate()) <= before


def test_a_text_ends_with_the_token_that_only_the_tokenizer_calls_its_end(tmp_path: Path) -> None:
    """As of a chat model whose configuration was copied from the base model."""
    reference, tokenizer = Reference(save_model(tmp_path, "llama")), byte_level_tokenizer()
    prompt = tokenizer(PROMPTS[0], return_tensors="pt").input_ids
    said = int(reference.model.generate(prompt, max_new_tokens=1, do_sample=False)[0, -1])
    _set("tokenizer_config.json", eos_token=tokenizer.convert_ids_to_tokens(said))(tmp_path)
    engine = load(tmp_path)
    answer = ask(engine, PROMPTS[0], 8)
    engine.close()
    assert (answer.text, answer.finished().finish_reason) == ("", "stop")


def test_a_tokenizer_that_cannot_spell_the_models_tokens_is_refused(tmp_path: Path) -> None:
    for file in save_model(tmp_path, "qwen2").glob("tokenizer*"):
        file.unlink()  # The library makes an empty one then.
    with pytest.raises(ModelLoadFailed, match=f"the tokenizer has 1 tokens, the model {VOCABULARY}"):
        load(tmp_path)


def test_an_unknown_dtype_is_refused(folder: Path) -> None:
    with pytest.raises(ModelLoadFailed, match="no dtype"):
        load(folder, dtype="int3")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_models_generate(dtype: str, folder: Path) -> None:
    engine = load(folder, dtype=dtype)
    assert ask(engine, PROMPTS[0], 8).finished().completion_tokens == 8
    engine.close()
