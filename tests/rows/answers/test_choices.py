import pytest

from engine.rows.answers.choices import choice_of, reference_choice
from engine.rows.final_answer import Verdict, judge


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("The answer is (b).", "B"),
        ("Option C is correct.", "C"),
        ("I'd pick D, because 3 × 4 = 12.", "D"),
        ("**D) 12 cm**", "D"),
        (r"So \boxed{A}.", "A"),
        ("<think>A or B?</think> B", "B"),
        ("A) 3\nB) 4\nC) 5", None),  # the question, told again
        ("The answer is a number.", None),
        ("", None),
    ],
)
def test_the_letter_of_a_choice_is_found(text, letter):
    assert choice_of(text) == letter


def test_only_a_letter_alone_is_a_choice():
    assert reference_choice("(b)") == reference_choice("B.") == "B"
    assert reference_choice("x") is reference_choice("12") is reference_choice("Bob") is None


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("The answer is (b).", Verdict.RIGHT),
        ("Option C is correct.", Verdict.WRONG),
        ("I cannot say.", Verdict.NO_ANSWER),
    ],
)
def test_an_answer_is_compared_with_the_letter_that_is_asked_for(text, verdict):
    assert judge("math", text, ["B"]) == verdict
