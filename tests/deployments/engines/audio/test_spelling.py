"""CTC: repeated frames, blanks, special tokens, words and their times."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from deployments.contract.speech import SpeechSegment
from deployments.engines.audio.spelling import CtcSpelling, segments_of
from tests.support.audio.models import LETTERS, letters_tokenizer, words_tokenizer


@pytest.fixture(scope="module")
def spelling(tmp_path_factory: pytest.TempPathFactory) -> CtcSpelling:
    folder = tmp_path_factory.mktemp("letters")
    letters_tokenizer(folder)
    return CtcSpelling(AutoTokenizer.from_pretrained(folder))


def frames(text: str) -> list[int]:
    """`_` is the blank, `<` the beginning of a sentence, `?` an unknown letter."""
    return [LETTERS.index({"_": "<pad>", "<": "<s>", "?": "<unk>"}.get(letter, letter)) for letter in text]


@pytest.mark.parametrize(
    ("heard", "text"),
    [
        ("HHEE_LL_LLOO", "HELLO"),
        ("HE_L_LO||_WORLD", "HELLO WORLD"),
        ("_<HI<<", "HI"),
        ("A?A", "AA"),
        ("|A||B|", "A B"),
        ("____", ""),
        ("", ""),
    ],
)
def test_repetitions_are_one_letter_and_a_blank_separates_two(spelling: CtcSpelling, heard: str, text: str) -> None:
    """S20. Blanks that are taken out before frames are grouped make HELO of HELLO."""
    assert spelling.text(frames(heard)) == text


def test_words_have_the_times_of_their_frames(spelling: CtcSpelling) -> None:
    words = spelling.words(frames("__HHEY_|_YYOU____|"), 0.02)
    assert words == [
        SpeechSegment(start_s=0.04, end_s=0.12, text="HEY"),
        SpeechSegment(start_s=0.18, end_s=0.26, text="YOU"),
    ]


def test_pieces_of_words_that_begin_one_make_words(tmp_path: Path) -> None:
    words_tokenizer(tmp_path)
    spelling = CtcSpelling(PreTrainedTokenizerFast.from_pretrained(tmp_path))
    numbers = [0, 4, 4, 12, 0, 12, 5, 13, 0]  # ▁a i i ▁b j
    assert spelling.text(numbers) == "aii bj"
    assert [(word.text, word.start_s, word.end_s) for word in spelling.words(numbers, 1.0)] == [
        ("aii", 1.0, 6.0),
        ("bj", 6.0, 8.0),
    ]


def test_a_pause_ends_a_segment() -> None:
    words = [SpeechSegment(start_s=at, end_s=at + 0.5, text=text) for at, text in ((0, "A"), (0.6, "B"), (2.1, "C"))]
    assert segments_of(words) == [
        SpeechSegment(start_s=0, end_s=1.1, text="A B"),
        SpeechSegment(start_s=2.1, end_s=2.6, text="C"),
    ]
    assert segments_of([]) == []
