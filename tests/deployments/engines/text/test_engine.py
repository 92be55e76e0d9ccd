"""The engine says what `transformers.generate` says, whatever else is in the batch."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from deployments.contract.errors import Internal, InvalidRequest, PromptTooLong
from deployments.contract.types import SamplingOptions
from deployments.engines.text.engine import TextGenerationEngine
from deployments.engines.text.request import Finished
from tests.support.text_models import (
    CONFIGS,
    CONTEXT,
    LOADERS,
    OPENVINO,
    PATIENCE_S,
    PROMPTS,
    VOCABULARY,
    Listener,
    PausedListener,
    Reference,
    ask,
    load,
    load_paged,
    save_model,
)

NOTES = {
    "mamba": "plain generation, row by row: no KV cache",
    "rwkv": "plain generation, row by row: no KV cache",
}


@pytest.fixture(scope="module", params=LOADERS)
def engine(request: pytest.FixtureRequest, folder: Path) -> Iterator[TextGenerationEngine]:
    engine: TextGenerationEngine = request.param(folder)
    yield engine
    engine.close()


@pytest.mark.compiles
@pytest.mark.parametrize("kind", CONFIGS)
def test_greedy_text_is_that_of_generate(kind: str, tmp_path: Path) -> None:
    """Alone and together; the model says what runs it."""
    engine, reference = load(save_model(tmp_path, kind)), Reference(tmp_path)
    listeners = [Listener() for _ in PROMPTS]
    try:
        assert engine.runtime_info == (NOTES.get(kind, OPENVINO),)
        for prompt in PROMPTS[:2]:
            assert reference.agrees(prompt, 24, ask(engine, prompt, 24).text)
        for prompt, listener in zip(PROMPTS, listeners, strict=True):
            engine.submit(prompt, 24, SamplingOptions(), listener)
        for prompt, listener in zip(PROMPTS, listeners, strict=True):
            listener.finished()
            assert reference.agrees(prompt, 24, listener.text), prompt
    finally:
        engine.close()


@pytest.mark.compiles
def test_a_folders_generation_config_holds_in_every_batch(tmp_path: Path) -> None:
    save_model(tmp_path, "llama")
    plain = Reference(tmp_path).continuation(PROMPTS[0], 12)
    values = {"eos_token_id": 1, "no_repeat_ngram_size": 1, "suppress_tokens": [*range(60, 200)], "num_beams": 1}
    (tmp_path / "generation_config.json").write_text(json.dumps(values))
    engine, reference = load_paged(tmp_path), Reference(tmp_path)
    assert engine.runtime_info[1:] == ("generation_config.json: always: no_repeat_ngram_size, suppress_tokens",)
    listeners = [Listener() for _ in PROMPTS]
    for prompt, listener in zip(PROMPTS, listeners, strict=True):
        engine.submit(prompt, 12, SamplingOptions(), listener)
    for prompt, listener in zip(PROMPTS, listeners, strict=True):
        listener.finished()
        assert reference.agrees(prompt, 12, listener.text), prompt
    assert reference.continuation(PROMPTS[0], 12) != plain
    engine.close()


@pytest.mark.slow
def test_64_mixed_requests_at_random_times_get_their_own_texts(
    engine: TextGenerationEngine, reference: Reference
) -> None:
    dice = random.Random(5)
    asked = [(dice.choice(PROMPTS) * dice.randint(1, 2), dice.randint(1, 60)) for _ in range(64)]
    listeners = [Listener() for _ in asked]
    for number, ((prompt, tokens), listener) in enumerate(zip(asked, listeners, strict=True)):
        if number and dice.random() < 0.5:  # Come in the midst of an earlier one.
            assert listeners[dice.randrange(number)].started.wait(60)
        engine.submit(prompt, tokens, SamplingOptions(), listener)
    for (prompt, tokens), listener in zip(asked, listeners, strict=True):
        listener.finished()
        assert reference.agrees(prompt, tokens, listener.text), (prompt, tokens)


def test_a_seeded_request_gets_the_same_text_in_any_batch(engine: TextGenerationEngine) -> None:
    warm = [
        SamplingOptions(temperature=0.9, top_p=0.9, seed=11),
        SamplingOptions(temperature=1.5, top_k=20, min_p=0.02, seed=12),
    ]
    warm.append(SamplingOptions(temperature=0.7, repetition_penalty=1.3, seed=13))
    alone = [ask(engine, PROMPTS[0], 30, sampling).text for sampling in warm]
    crowd = [Listener() for _ in range(9)]
    for number, listener in enumerate(crowd):
        engine.submit(PROMPTS[number % 5], 40, SamplingOptions(temperature=1.0), listener)
    together = [Listener() for _ in warm]
    for sampling, listener in zip(warm, together, strict=True):
        engine.submit(PROMPTS[0], 30, sampling, listener)
    for listener in [*crowd, *together]:
        listener.finished()
    assert [listener.text for listener in together] == alone
    assert len({ask(engine, PROMPTS[0], 30, SamplingOptions(temperature=1.0)).text for _ in range(4)}) > 1


def test_no_tokens_give_an_empty_text_at_once(engine: TextGenerationEngine) -> None:
    listener = ask(engine, "Once upon a time", 0)
    assert listener.events == [Finished("length", listener.finished().prompt_tokens, 0)]


def test_generation_ends_at_the_end_of_the_context(engine: TextGenerationEngine, reference: Reference) -> None:
    prompt = "the quick brown fox " * 4
    end = ask(engine, prompt, 2**32 - 1)
    assert end.finished().prompt_tokens + end.finished().completion_tokens == CONTEXT
    assert end.finished().finish_reason == "length"
    assert reference.agrees(prompt, CONTEXT, end.text)


def test_a_prompt_that_fills_the_context_is_refused_with_both_counts(engine: TextGenerationEngine) -> None:
    with pytest.raises(PromptTooLong, match=rf"has \d{{3}} tokens, the model takes at most {CONTEXT - 1}$"):
        engine.submit("日本語" * 40, 5, SamplingOptions(), Listener())


def test_an_empty_prompt_is_the_beginning_of_a_text(engine: TextGenerationEngine) -> None:
    assert ask(engine, "", 5).finished().prompt_tokens == 1


def test_text_that_spells_special_tokens_stays_text(engine: TextGenerationEngine) -> None:
    assert ask(engine, "</s>", 1).finished().prompt_tokens > 2
    assert ask(engine, "<|endoftext|>", 1).finished().prompt_tokens > 2


@pytest.mark.compiles
def test_an_eos_token_ends_the_text_and_is_not_part_of_it(folder: Path, tmp_path: Path, reference: Reference) -> None:
    """The token that greedy decoding gives fourth is declared an end, in a list, as Llama 3 has it."""
    inputs = reference.tokenizer(PROMPTS[0], return_tensors="pt", return_token_type_ids=False)
    ids = reference.model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs.input_ids.shape[1] :].tolist()
    save_model(tmp_path, "llama")
    reference.model.generation_config.eos_token_id = [1, ids[3]]
    reference.model.generation_config.save_pretrained(tmp_path)
    reference.model.generation_config.eos_token_id = 1
    engine = load(tmp_path)
    listener = ask(engine, PROMPTS[0], 20)
    engine.close()
    told = ids.index(ids[3])
    assert listener.finished() == Finished("stop", inputs.input_ids.shape[1], told + 1)
    assert listener.text == reference.tokenizer.decode(ids[:told])


@pytest.mark.compiles
def test_only_the_request_whose_logits_are_nan_fails_and_its_slot_is_clean(tmp_path: Path) -> None:
    """The long poisoned row is taken over by a short one in the same step, beside a third that runs on."""
    save_model(tmp_path, "llama")
    reference = Reference(tmp_path)
    poison = reference.tokenizer("~").input_ids[-1]
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.embed_tokens.weight"][poison] = torch.nan
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    engine = load(tmp_path)
    healthy, poisoned, heir = PausedListener(), Listener(), Listener()
    engine.submit(PROMPTS[0], 60, SamplingOptions(), healthy)
    assert healthy.started.wait(PATIENCE_S)
    engine.submit("a~b" * 15, 20, SamplingOptions(), poisoned)
    engine.submit(PROMPTS[2], 20, SamplingOptions(), heir)
    healthy.resumed.set()
    end = poisoned.end()
    healthy.finished()
    heir.finished()
    engine.close()
    assert isinstance(end, Internal)
    assert "nan" not in end.message.lower()
    assert reference.agrees(PROMPTS[0], 60, healthy.text)
    assert reference.agrees(PROMPTS[2], 20, heir.text)


def test_a_prompt_of_token_ids_gives_the_text_of_its_words(engine: TextGenerationEngine, folder: Path) -> None:
    listener = Listener()
    engine.submit(Reference(folder).tokenizer(PROMPTS[0]).input_ids, 20, SamplingOptions(), listener)
    assert listener.finished() == ask(engine, PROMPTS[0], 20).finished()
    assert listener.text == ask(engine, PROMPTS[0], 20).text


@pytest.mark.parametrize("ids", [[0, -1], [0, VOCABULARY], [2**40]])
def test_tokens_out_of_the_vocabulary_are_refused(engine: TextGenerationEngine, ids: list[int]) -> None:
    with pytest.raises(InvalidRequest, match=f"not one of the model's {VOCABULARY}"):
        engine.submit(ids, 5, SamplingOptions(), Listener())
