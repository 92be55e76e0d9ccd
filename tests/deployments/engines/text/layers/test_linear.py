"""Packed layers say what plain ones say, take no more memory, and are left alone where a model looks into them."""

import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaMLP

from deployments.engines.probes import ProbeCache
from deployments.engines.text.layers.linear import FirstSibling, PackedLinear
from deployments.engines.text.model import CausalModel
from tests.support.text_models import VOCABULARY, save_model

IDS = torch.arange(3, 40)[None]
LLAMA = '[["q_proj", "k_proj", "v_proj"], ["gate_proj", "up_proj"]]'
LINEARS = {"llama": LLAMA, "qwen2": LLAMA, "gpt2": "[]", "gpt_neox": "[]", "rwkv": "[]"}

packs = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch is built without oneDNN")


@packs
@pytest.mark.parametrize("kind", LINEARS)
@torch.inference_mode()
def test_packed_layers_give_the_logits_of_plain_ones(kind: str, tmp_path: Path) -> None:
    """gpt2 has layers of its own kind and shares its output layer with the embedding; qwen2 has biases."""
    loaded = CausalModel.load(save_model(tmp_path, kind), "cpu", None, ProbeCache(None))
    expected = AutoModelForCausalLM.from_pretrained(tmp_path)(IDS).logits
    assert loaded.linears == LINEARS[kind]
    assert any(isinstance(module, PackedLinear) for module in loaded.model.modules())
    assert torch.allclose(loaded.model(IDS).logits, expected, atol=1e-4)


@packs
def test_packing_holds_no_weight_twice(tmp_path: Path) -> None:
    loaded = CausalModel.load(save_model(tmp_path, "llama"), "cpu", None, ProbeCache(None))
    assert loaded.nbytes < 1.05 * (tmp_path / "model.safetensors").stat().st_size
    mappings = Path("/proc/self/maps")
    assert not mappings.exists() or str(tmp_path) not in mappings.read_text()


@torch.inference_mode()
def test_a_model_that_reads_its_weights_directly_stays_plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: LlamaMLP, x: Tensor) -> Tensor:
        y: Tensor = self.down_proj(x @ self.gate_proj.weight.t() * self.up_proj(x))
        return y

    monkeypatch.setattr(LlamaMLP, "forward", forward)
    loaded = CausalModel.load(save_model(tmp_path, "llama"), "cpu", None, ProbeCache(None))
    assert loaded.linears == "plain"
    assert not any(isinstance(module, PackedLinear) for module in loaded.model.modules())
    assert torch.equal(loaded.model(IDS).logits, AutoModelForCausalLM.from_pretrained(tmp_path)(IDS).logits)


@packs
def test_siblings_keep_threads_apart(tmp_path: Path) -> None:
    """As when a compiled step is checked against the eager one beside the thread that serves."""
    model = CausalModel.load(save_model(tmp_path, "llama"), "cpu", None, ProbeCache(None)).model
    texts = [(IDS * factor) % VOCABULARY for factor in (1, 3)]
    wrong: list[int] = []

    @torch.inference_mode()
    def run(number: int) -> None:
        expected = model(texts[number]).logits
        wrong.extend(number for _ in range(40) if not torch.allclose(model(texts[number]).logits, expected, atol=1e-5))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@packs
@torch.inference_mode()
def test_a_sibling_refuses_another_tensor(tmp_path: Path) -> None:
    model = CausalModel.load(save_model(tmp_path, "llama"), "cpu", None, ProbeCache(None)).model
    first = next(module for module in model.modules() if isinstance(module, FirstSibling))
    first(torch.ones(1, 32))
    with pytest.raises(ValueError, match="another tensor"):
        first.take(torch.ones(1, 32))


@packs
@pytest.mark.parametrize(("outputs", "inputs"), [(64, 32), (100, 48), (16, 16)])
@torch.inference_mode()
def test_one_row_gives_the_same_from_the_blocked_weight(outputs: int, inputs: int) -> None:
    """The blocks are the packed weight's own memory; where it is laid out otherwise there are none to be had."""
    weight, bias, x = torch.randn(outputs, inputs), torch.randn(outputs), torch.randn(1, 1, inputs)
    packed, single = PackedLinear(weight, bias, "packed"), PackedLinear(weight, bias, "blocked")
    blocked = packed.blocked_weight()
    if blocked is None:
        pytest.skip("oneDNN packs otherwise on this machine")
    single.weight = blocked
    assert torch.allclose(single(x), x @ weight.t() + bias, atol=1e-4)
    blocked[0, 0, 0] += 1
    assert not torch.allclose(packed(x), x @ weight.t() + bias, atol=1e-4), "a copy would not have changed it"
