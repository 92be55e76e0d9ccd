"""Texts become the tokens that the library makes of them, within the longest text that folder and encoder allow."""

from pathlib import Path
from typing import Any

import pytest

from deployments.contract.errors import InvalidRequest, ModelLoadFailed, PromptTooLong
from deployments.engines.embedding.tokenizer import EmbeddingTokenizer
from tests.support.embedding.models import TEXTS, tokenizer

LONG = "a text of some more words " * 9


def loaded(folder: Path, said: int | None = None, most: int | None = None, **options: Any) -> EmbeddingTokenizer:
    tokenizer(**options).save_pretrained(folder)
    return EmbeddingTokenizer.load(folder, said, most, lowercase=False, takes_types=True)


def test_ids_are_the_librarys_cut_as_it_cuts_them(tmp_path: Path) -> None:
    ours = loaded(tmp_path, max_tokens=16)
    known = tokenizer(16)([*TEXTS, LONG], truncation=True)["input_ids"]
    assert [list(text.ids) for text in ours.encode([*TEXTS, LONG], "")] == known
    assert len(known[-1]) == 16
    assert known[-1][-1] == 3  # its end is within the sixteen


@pytest.mark.parametrize(
    ("said", "own", "most", "limit"),
    [(16, 512, 512, 16), (None, 32, 64, 32), (None, int(1e30), 64, 64), (99, 512, 64, 64)],
)
def test_the_longest_text_is_the_least_of_what_is_said(
    tmp_path: Path, said: int | None, own: int, most: int, limit: int
) -> None:
    ours = loaded(tmp_path, said, most, max_tokens=own)
    assert ours.max_tokens == limit
    assert len(ours.encode([LONG * 9], "")[0].ids) == limit


def test_a_long_text_is_refused_where_it_may_not_be_cut(tmp_path: Path) -> None:
    ours = loaded(tmp_path, 16)
    with pytest.raises(PromptTooLong, match="the text at index 1 has more than 16 tokens"):
        ours.encode(["a", LONG], "", truncate=False)
    with pytest.raises(PromptTooLong, match="the tokens at index 0"):
        ours.accept([[5] * 17], 40, truncate=False)
    assert len(ours.accept([[5] * 17], 40)[0].ids) == 16


def test_a_prompt_stands_before_each_text_and_its_tokens_may_be_left_out(tmp_path: Path) -> None:
    ours = loaded(tmp_path)
    first, second = ours.encode(["a text", "the fox"], "query: ", leave_prompt_out=True)
    assert list(first.ids) == list(ours.encode(["query: a text"], "")[0].ids)
    assert first.left_out == second.left_out == 3  # [CLS] query :
    assert ours.encode(["a text"], "query: ")[0].left_out == 0


def test_a_text_without_any_token_is_refused_by_its_index(tmp_path: Path) -> None:
    assert [list(text.ids) for text in loaded(tmp_path / "with").encode(["", "  "], "")] == [[2, 3], [2, 3]]
    with pytest.raises(InvalidRequest, match="the text at index 1 is empty"):
        loaded(tmp_path / "without", special=False).encode(["a", "  "], "")


def test_ids_of_the_model_are_taken_as_they_are_and_those_of_another_refused(tmp_path: Path) -> None:
    ours = loaded(tmp_path)
    assert [list(text.ids) for text in ours.accept([[5, 6, 7], [24]], 25)] == [[5, 6, 7], [24]]
    with pytest.raises(InvalidRequest, match=r"id 25 at index 1 .* 25: .*check_embedding_ctx_length=False"):
        ours.accept([[5], [6, 25]], 25)


def test_texts_may_be_put_into_lower_case(tmp_path: Path) -> None:
    tokenizer().save_pretrained(tmp_path)
    cased, lower = (EmbeddingTokenizer.load(tmp_path, None, 64, lowercase, True) for lowercase in (False, True))
    assert list(lower.encode(["The FOX"], "")[0].ids) == list(cased.encode(["the fox"], "")[0].ids)
    assert list(cased.encode(["The FOX"], "")[0].ids) == [2, 1, 1, 3]


def test_a_folder_without_a_tokenizer_says_so_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match="the tokenizer cannot be read") as failed:
        EmbeddingTokenizer.load(tmp_path, None, 64, False, True)
    assert "\n" not in failed.value.message
