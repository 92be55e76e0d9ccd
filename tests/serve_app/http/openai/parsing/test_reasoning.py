"""Reasoning is split from the answer where the model marks it, and nowhere else."""

import pytest

from deployments.contract.chat import Markup
from serve_app.http.openai.parsing.output import OutputParser
from tests.serve_app.http.openai.parsing.model_outputs import THINK, parsed, pieces_of


@pytest.mark.parametrize(
    ("text", "in_reasoning", "meant", "reasoning"),
    [
        (
            "<think>\nHm, 1 < 2.\n\nYes.\n</think>\n\nYes, </think> it is.",
            False,
            "Yes, </think> it is.",
            "Hm, 1 < 2.\n\nYes.",
        ),
        ("Hm.\n</think>\n\nYes.", True, "Yes.", "Hm."),
        ("<think>\n\n</think>\n\nYes.", False, "Yes.", ""),
        (" \nYes, <think> is text.", False, " \nYes, <think> is text.", ""),
        ("<think>Hm, that is cut </thi", False, "", "Hm, that is cut </thi"),
        ("Hm, that is cut \n", True, "", "Hm, that is cut"),
        ("<thin", False, "<thin", ""),
        ("", True, "", ""),
    ],
)
def test_reasoning_is_split_from_the_answer_however_it_comes(
    text: str, in_reasoning: bool, meant: str, reasoning: str
) -> None:
    for pieces in pieces_of(text):
        parser = OutputParser(Markup(reasoning=THINK, in_reasoning=in_reasoning))
        assert parsed(parser, pieces) == (meant, reasoning, []), pieces


def test_without_marks_a_text_is_itself_at_once() -> None:
    parser = OutputParser(Markup())
    assert [parser.feed(piece).text for piece in ("<thi", "nk> {", '"name": ')] == ["<thi", "nk> {", '"name": ']
