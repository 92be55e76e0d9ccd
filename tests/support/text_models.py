"""Tiny random models in real Hugging Face folders, and what transformers itself answers with them."""

import atexit
import functools
import os
import threading
import time
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    RwkvConfig,
)

from deployments.contract.chunk import Chunk
from deployments.contract.errors import ServingError
from deployments.contract.types import SamplingOptions
from deployments.engines.loading import build_in_turn
from deployments.engines.text.decoders.model import CausalModel
from deployments.engines.text.decoders.single import SingleDecoder
from deployments.engines.text.engine import TextGenerationEngine
from deployments.engines.text.folder.generation import FolderGeneration
from deployments.engines.text.loop import DecoderLoop
from deployments.engines.text.openvino.artifacts import converter
from deployments.engines.text.paged import PagedLoop
from deployments.engines.text.request import Event, Finished
from deployments.engines.text.scheduler import RequestQueue
from deployments.engines.text.select_backend import Selected
from deployments.engines.text.stats import StatsRecorder
from deployments.engines.text.tokenizer import Tokenizer
from deployments.system.artifact_cache import ArtifactCache

CONTEXT = 96
SPECIAL = ["<s>", "</s>", "<|endoftext|>"]
VOCABULARY = 320
PATIENCE_S = 60.0
GREEDY = SamplingOptions()
OPENVINO = "paged attention of OpenVINO, f32"
PAGED = "paged continuous batching of transformers"
PROMPTS = [
    "Once upon a time",
    "the quick brown fox jumps over the lazy dog and then some more words follow it",
    "a",
    "日本語 and naïve 🎉 text",
    "def main():\n    return 1\n",
]
CHATML = (
    "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] | trim }}</s>\n{% endfor %}"
    "{% for tool in tools or [] %}{{ tool.function.name }}{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)

build_in_turn()  # as replicas do: another test's thread may still load a model

_ATTENTION: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": CONTEXT}
_WIDTH: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "initializer_range": 0.3,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**_WIDTH, **_ATTENTION, intermediate_size=64, num_key_value_heads=2),
    "gpt2": GPT2Config(**_WIDTH, **_ATTENTION),
    "gpt_neox": GPTNeoXConfig(**_WIDTH, **_ATTENTION, intermediate_size=64),
    "qwen2": Qwen2Config(**_WIDTH, **_ATTENTION, intermediate_size=64, num_key_value_heads=2),
    "mistral": MistralConfig(
        **_WIDTH, **_ATTENTION, intermediate_size=64, num_key_value_heads=2, sliding_window=16, head_dim=8
    ),
    "mamba": MambaConfig(**_WIDTH, num_hidden_layers=2, state_size=8),
    "rwkv": RwkvConfig(**_WIDTH, num_hidden_layers=2, attention_hidden_size=32, context_length=CONTEXT),
}


def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    """BPE on bytes, as GPT-2 and Llama 3 have it, that puts `<s>` before every text."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(PROMPTS * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def save_model(folder: Path, kind: str) -> Path:
    torch.manual_seed(7)
    AutoModelForCausalLM.from_config(CONFIGS[kind]).save_pretrained(folder)
    byte_level_tokenizer().save_pretrained(folder)
    return folder


def save_chat_model(folder: Path, template: str, special: Sequence[str] = ()) -> Path:
    """`special`: further special tokens, which the model knows."""
    tokenizer = byte_level_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    config = copy(CONFIGS["llama"])
    config.vocab_size = max(VOCABULARY, len(tokenizer))
    torch.manual_seed(7)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


def save_long_model(folder: Path, context: int = 1024) -> Path:
    """A Llama for longer texts than the others take."""
    torch.manual_seed(7)
    config = LlamaConfig(**_WIDTH, **_ATTENTION | {"max_position_embeddings": context}, intermediate_size=64)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    byte_level_tokenizer().save_pretrained(folder)
    return folder


class Listener:
    """Collects the events of one request, and when the first and the last came."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.started, self.ended = threading.Event(), threading.Event()
        self.started_at = self.ended_at = 0.0

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self.started_at = self.started_at or time.perf_counter()
        self.started.set()
        if not isinstance(event, Chunk):
            self.ended_at = time.perf_counter()
            self.ended.set()

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, Chunk))

    def end(self) -> Finished | ServingError:
        """Waits for the one event that ends it."""
        assert self.ended.wait(PATIENCE_S), "the generation did not end"
        last = self.events[-1]
        assert not isinstance(last, Chunk)
        return last

    def finished(self) -> Finished:
        end = self.end()
        assert isinstance(end, Finished), end
        return end


class PausedListener(Listener):
    """Holds the engine at its first chunk until `resumed`."""

    def __init__(self) -> None:
        super().__init__()
        self.resumed = threading.Event()

    def __call__(self, event: Event) -> None:
        super().__call__(event)
        assert self.resumed.wait(PATIENCE_S)


@functools.cache
def converted_models() -> ArtifactCache:
    """Of all workers of pytest-xdist. The child that converts stays as long as its process: it starts in seconds."""
    child = converter()
    child.__enter__()
    atexit.register(child.__exit__, None, None, None)
    return ArtifactCache(Path(os.environ["CONVERTED_MODELS"]), 1 << 30)


def load(folder: Path, dtype: str | None = None, max_batch_size: int = 16) -> TextGenerationEngine:
    return TextGenerationEngine.load(folder, dtype=dtype, max_batch_size=max_batch_size, cache=converted_models())


def load_paged(folder: Path, max_batch_size: int = 16, max_waiting: int = 1_024) -> TextGenerationEngine:
    """An engine on the library's loop, whatever the table says."""
    loaded, recorder = CausalModel.load(folder, "cpu", None), StatsRecorder()
    loop = PagedLoop(loaded, RequestQueue(max_batch_size, max_waiting, recorder))
    generation = FolderGeneration.read(folder, loaded.stop_ids)
    return TextGenerationEngine(Selected(loop, loaded, loaded.nbytes), Tokenizer.load(folder), recorder, generation)


def load_openvino(
    folder: Path, max_batch_size: int = 16, max_waiting: int = 1_024, prompt_lookup: bool = False
) -> TextGenerationEngine:
    engine = TextGenerationEngine.load(
        folder,
        max_batch_size=max_batch_size,
        max_waiting=max_waiting,
        cache=converted_models(),
        prompt_lookup=prompt_lookup,
    )
    assert engine.runtime_info[0] == OPENVINO + ", prompt lookup" * prompt_lookup
    return engine


def load_single(folder: Path) -> TextGenerationEngine:
    """An engine on plain generation, row by row, whatever the table says."""
    loaded, recorder = CausalModel.load(folder, "cpu", None), StatsRecorder()
    queue = RequestQueue(16, 1_024, recorder)
    loop = DecoderLoop(loaded, SingleDecoder(loaded.model, "past_key_values"), queue, "plain generation")
    return TextGenerationEngine(Selected(loop, loaded, loaded.nbytes), Tokenizer.load(folder), recorder)


LOADERS = [pytest.param(load_openvino, marks=pytest.mark.compiles), load_paged]
"""The rows of the engine table that compute requests side by side."""


def ask(engine: TextGenerationEngine, prompt: str, tokens: int, sampling: SamplingOptions = GREEDY) -> Listener:
    """Submit and wait for the end."""
    listener = Listener()
    engine.submit(prompt, tokens, sampling, listener)
    listener.finished()
    return listener


class Reference:
    """`transformers.generate` on the same folder, greedy, in fp32."""

    def __init__(self, folder: Path, context: int = CONTEXT) -> None:
        self.context = context
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self._known: dict[str, tuple[int, list[int], list[int]]] = {}

    def continuation(self, prompt: str, tokens: int) -> tuple[str, bool]:
        """The text, and whether it is whole: it ends early where the two best logits lie within 1e-4."""
        asked, ids, ties = self._known.get(prompt) or (0, [], [])
        if asked < tokens:  # However long it becomes, a greedy text begins in the same way.
            asked, ids, ties = self._known[prompt] = tokens, *self._generate(prompt, tokens)
        end = min([tokens, *ties])
        text = self.tokenizer.decode(ids[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text), end >= min(tokens, len(ids))

    def _generate(self, prompt: str, tokens: int) -> tuple[list[int], list[int]]:
        """New tokens, and the places where the choice hangs on rounding."""
        inputs = self.tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        length = inputs.input_ids.shape[1]
        answer = self.model.generate(
            **inputs,
            max_new_tokens=min(tokens, self.context - length),
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
            pad_token_id=1,
        )
        best = torch.cat(answer.logits).topk(2).values
        ties = ((best[:, 0] - best[:, 1]) < 1e-4).nonzero().flatten().tolist()
        return answer.sequences[0, length:].tolist(), ties

    def agrees(self, prompt: str, tokens: int, text: str) -> bool:
        expected, whole = self.continuation(prompt, tokens)
        return text == expected if whole else text.startswith(expected.rstrip("\ufffd"))
