"""Folders that are no causal language model are refused in one line; dtypes are what they are called."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from deployments.contract.errors import ModelLoadFailed
from deployments.engines.text.decoders.model import CausalModel
from deployments.engines.text.engine import TextGenerationEngine
from deployments.repository.adapters import join
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
    "unknown type": (_set("config.json", model_type="unheard_of"), "knows no models of type 'unheard_of'"),
    "code in the folder": (
        _set("config.json", model_type="own", auto_map={"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}),
        "knows no models of type 'own', and code of the folder is not run",
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
        TextGenerationEngine.load(tmp_path, in_background=True)  # As a replica: the plain model is read first.
    assert "\n" not in caught.value.message
    assert str(tmp_path) not in caught.value.message
    assert not caught.value.retryable
    assert not {thread.name for thread in set(threading.enumerate()) - before if thread.name.startswith("text-")}


@pytest.mark.compiles
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


@pytest.mark.compiles
def test_a_tokenizer_that_cannot_spell_the_models_tokens_is_refused(tmp_path: Path) -> None:
    for file in save_model(tmp_path, "qwen2").glob("tokenizer*"):
        file.unlink()  # The library makes an empty one then.
    with pytest.raises(ModelLoadFailed, match=f"the tokenizer has 1 tokens, the model {VOCABULARY}"):
        load(tmp_path)


@pytest.mark.compiles
def test_the_library_runs_its_own_code_where_the_folder_has_some_too(tmp_path: Path) -> None:
    """As Phi-3, Falcon and DeepSeek are downloaded."""
    save_model(tmp_path, "llama")
    expected, whole = Reference(tmp_path).continuation(PROMPTS[0], 8)
    ran = tmp_path / "ran"
    for name in ("configuration", "modeling", "tokenization"):
        (tmp_path / f"{name}.py").write_text(f"open({str(ran)!r}, 'w')")
    code = {"AutoConfig": "configuration.C", "AutoModelForCausalLM": "modeling.M"}
    _set("config.json", auto_map=code, attn_implementation="flash_attention_2")(tmp_path)
    _set("tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization.T", None]})(tmp_path)
    engine = load(tmp_path)
    assert ask(engine, PROMPTS[0], 8).text == expected or not whole
    engine.close()
    assert not ran.exists()


@pytest.mark.compiles
def test_weights_in_fp8_are_computed_as_the_library_computes_them(tmp_path: Path) -> None:
    weights = load_file(save_model(tmp_path, "llama") / "model.safetensors")
    for name in [name for name in weights if name.endswith("proj.weight")]:
        out, into = (size // 16 for size in weights[name].shape)
        blocks = weights[name].reshape(out, 16, into, 16)
        scales = blocks.abs().amax((1, 3)) / 448
        weights[name] = (blocks / scales[:, None, :, None]).flatten(2).flatten(0, 1).to(torch.float8_e4m3fn)
        weights[f"{name}_scale_inv"] = scales
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    fp8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [16, 16]}
    _set("config.json", quantization_config=fp8)(tmp_path)
    engine = load(tmp_path)
    assert Reference(tmp_path).agrees(PROMPTS[0], 12, ask(engine, PROMPTS[0], 12).text)
    engine.close()


# peft reads what transformers calls by another name by now, and only warns of what we refuse.
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:Found missing adapter keys")
def test_an_adapter_is_merged_into_its_base(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", "llama")
    lora = LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    torch.manual_seed(3)
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora)
    adapted.save_pretrained(str(tmp_path / "adapter"))
    folder = join(tmp_path / "adapter", base, tmp_path / "joined")
    ids = torch.arange(9)[None]
    merged = CausalModel.load(folder, "cpu", None).model
    torch.testing.assert_close(merged(input_ids=ids).logits, adapted.eval()(input_ids=ids).logits, rtol=0, atol=1e-4)
    assert not any("lora" in name for name, _ in merged.named_parameters())
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    tensors.pop(next(iter(tensors)))
    save_file(tensors, tmp_path / "adapter" / "adapter_model.safetensors")
    with pytest.raises(ModelLoadFailed, match="the adapter does not fit its base"):
        CausalModel.load(join(tmp_path / "adapter", base, tmp_path / "other"), "cpu", None)


def test_an_unknown_dtype_is_refused(folder: Path) -> None:
    with pytest.raises(ModelLoadFailed, match="no dtype"):
        TextGenerationEngine.load(folder, dtype="int3", in_background=True)


@pytest.mark.compiles
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_models_generate(dtype: str, folder: Path) -> None:
    engine = load(folder, dtype=dtype)
    assert ask(engine, PROMPTS[0], 8).finished().completion_tokens == 8
    engine.close()
