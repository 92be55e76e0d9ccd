"""A folder that has a tokenizer.model only is spelled as sentencepiece itself spells."""

import json
from pathlib import Path

import pytest
import sentencepiece

from deployments.engines.text.tokenizer import Tokenizer
from tests.support.text_models import PROMPTS

TEXT = "Once upon a time, naïve 日本語 🎉 words\nand lines"


def trained(folder: Path, kind: str, prefix: bool, byte_fallback: bool) -> sentencepiece.SentencePieceProcessor:
    with (folder / "tokenizer.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(PROMPTS * 9), model_writer=file, vocab_size=330, byte_fallback=byte_fallback,
            unk_id=0, bos_id=1, eos_id=2, model_type=kind, hard_vocab_limit=False, minloglevel=2,
            add_dummy_prefix=prefix, normalization_rule_name="identity", remove_extra_whitespaces=False,
        )  # fmt: skip
    return sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model"))


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("model_type", ["mistral", "phi3"])
def test_tokens_and_text_are_those_of_sentencepiece(model_type: str, kind: str, prefix: bool, tmp_path: Path) -> None:
    own = trained(tmp_path, kind, prefix, byte_fallback=True)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.encode(PROMPTS[0]) == own.encode(PROMPTS[0])
    assert tokenizer.decode(own.encode(PROMPTS[0])) == PROMPTS[0]
    if kind == "bpe":
        assert tokenizer.encode(TEXT) == own.encode(TEXT)
        assert tokenizer.decode(own.encode(TEXT)) == TEXT


@pytest.mark.parametrize("name", ["LlamaTokenizer", "LlamaTokenizerFast"])
def test_llamas_own_class_is_left_as_it_is(name: str, tmp_path: Path) -> None:
    own = trained(tmp_path, "bpe", True, byte_fallback=True)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.encode(TEXT) == own.encode(TEXT)
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
