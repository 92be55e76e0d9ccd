"""Each step chooses as `generate` does with the folder's generation_config.json; what does not count is named."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from deployments.contract.types import SamplingOptions
from deployments.engines.text.folder.generation import (
    FILE,
    NOT_HONOURED,
    REQUESTS,
    STEPS,
    FolderGeneration,
)
from deployments.engines.text.sampler import RowSampling, sample
from tests.support import PROJECT
from tests.support.text_models import CONFIGS, VOCABULARY

PROMPT = [0, 65, 66, 67, 65, 66]
TOKENS = 12
END = 1
GREEDY = SamplingOptions()


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    torch.manual_seed(7)
    made: PreTrainedModel = AutoModelForCausalLM.from_config(CONFIGS["llama"]).eval()
    return made


@torch.inference_mode()
def continued(model: PreTrainedModel, generation: FolderGeneration, options: SamplingOptions = GREEDY) -> list[int]:
    """As the engine's loop does it."""
    forward: Any = model
    tokens = list(PROMPT)
    folder = generation.processors(PROMPT, len(PROMPT) + TOKENS, options)
    while len(tokens) < len(PROMPT) + TOKENS and tokens[-1] != END:
        logits = forward(input_ids=torch.tensor([tokens])).logits[:, -1]
        tokens += sample(logits, [RowSampling(options, 0, tokens, None, len(PROMPT), (), folder)])
    return tokens[len(PROMPT) :]


def generated(model: PreTrainedModel, **values: Any) -> list[int]:
    config = GenerationConfig(eos_token_id=END, pad_token_id=END, **values)
    limit = {"max_new_tokens": TOKENS, "do_sample": False}
    made: Any = model
    answer = made.generate(torch.tensor([PROMPT]), generation_config=config, **limit)
    ids: list[int] = answer[0, len(PROMPT) :].tolist()
    return ids


CASES: list[dict[str, Any]] = [
    {"suppress_tokens": [*range(40, 200)]},
    {"begin_suppress_tokens": [*range(40, 310)]},
    {"bad_words_ids": [[token] for token in range(2, 150)]},
    {"no_repeat_ngram_size": 1},
    {"encoder_no_repeat_ngram_size": 1},
    {"encoder_repetition_penalty": 0.2},
    {"sequence_bias": [[[77], 30.0], [[78], 20.0]]},
    {"forced_eos_token_id": END},
    {"exponential_decay_length_penalty": [3, 9.0]},
    {"sequence_bias": [[[END], 90.0]], "min_new_tokens": 5},
    {"sequence_bias": [[[END], 90.0]], "min_length": len(PROMPT) + 4},
    {"suppress_tokens": [*range(40, 200)], "no_repeat_ngram_size": 2, "repetition_penalty": 1.7},
]


@pytest.mark.parametrize("values", CASES, ids=lambda values: " ".join(values))
def test_the_text_is_that_of_generate(model: PreTrainedModel, values: dict[str, Any]) -> None:
    options = SamplingOptions(repetition_penalty=values.get("repetition_penalty"))
    generation = FolderGeneration(values, [END])
    assert generation.not_honoured == []
    expected = generated(model, **values)
    assert continued(model, generation, options) == expected
    assert expected != generated(model)


def test_a_request_that_says_how_long_its_text_is_at_least_comes_before_the_folder(model: PreTrainedModel) -> None:
    generation = FolderGeneration({"sequence_bias": [[[END], 90.0]], "min_new_tokens": 5}, [END])
    assert len(continued(model, generation, SamplingOptions(min_tokens=0))) == 1


@pytest.mark.parametrize("key", ["typical_p", "epsilon_cutoff", "eta_cutoff", "top_h"])
def test_only_tokens_are_drawn_that_the_librarys_warpers_keep(key: str) -> None:
    logits = torch.randn(1, VOCABULARY, generator=torch.Generator().manual_seed(1)) * 3
    options = SamplingOptions(temperature=0.8, top_k=40, top_p=0.95)
    value = {"epsilon_cutoff": 0.02, "eta_cutoff": 0.02}.get(key, 0.5)
    folder = FolderGeneration({key: value}, [END]).processors(PROMPT, 20, options)
    assert folder
    tokens: Any = torch.tensor([PROMPT])
    kept = folder.warpers(tokens, logits / 0.8).isfinite().nonzero()[:, 1].tolist()
    rows = [RowSampling(options, seed, PROMPT, folder=folder) for seed in range(300)]
    drawn = set(sample(logits.expand(300, -1), rows))
    assert 1 < len(drawn) <= len(kept) < VOCABULARY
    assert drawn <= set(kept)
    assert FolderGeneration({key: value}, [END]).processors(PROMPT, 20, GREEDY) is None


def test_keys_that_say_nothing_cost_nothing() -> None:
    values = {
        "typical_p": 1.0,
        "suppress_tokens": [],
        "no_repeat_ngram_size": 0,
        "num_beams": 1,
        "guidance_scale": None,
    }
    generation = FolderGeneration(values, [END])
    assert (generation.processors(PROMPT, 20, SamplingOptions(temperature=1.0)), generation.notes) == (None, ())


def test_the_status_says_which_keys_hold_and_which_do_not(tmp_path: Path) -> None:
    values = {"do_sample": True, "top_k": 7, "suppress_tokens": [4], "num_beams": 4, "bad_words_ids": "none"}
    (tmp_path / FILE).write_text(json.dumps(values))
    assert FolderGeneration.read(tmp_path, [END]).notes == (
        "generation_config.json: where a request says nothing: temperature 1.0, top_k 7; always: suppress_tokens; "
        "not honoured: bad_words_ids, num_beams",
    )
    assert FolderGeneration.read(tmp_path / "none", [END]).notes == ()


def test_the_table_in_the_docs_has_every_key_of_the_installed_transformers_once() -> None:
    page = (PROJECT / "docs" / "models.md").read_text("utf-8")
    table = page[page.index("## generation_config.json") :].partition("\n## ")[0]
    rows = [row.split("|")[1:3] for row in table.splitlines() if row.startswith("| ") and "`" in row.split("|")[1]]
    keys: dict[str, set[str]] = {}
    listed = []
    for names, what in rows:
        found = re.findall(r"`(\w+)`", names)
        listed += found
        keys.setdefault(what.strip().split(":")[0], set()).update(found)
    assert sorted(listed) == sorted(key for key in vars(GenerationConfig()) if not key.startswith("_"))
    assert keys["a request's default"] == REQUESTS
    assert keys["every step"] == set(STEPS)
    assert keys["the end"] == {"eos_token_id"}  # read with the model
    assert keys["not honoured"] == set(NOT_HONOURED)
