from fractions import Fraction

import pytest

from engine.rows.final_answer import final_answer, normalise_qa, same_final_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Natalia sold 48/2 = <<48/2=24>>24.\n#### 72", Fraction(72)),
        ("#### 1,234,567", Fraction(1234567)),
        ("#### $18.00.", Fraction(18)),
        ("#### -5", Fraction(-5)),
        ("#### 12 apples", Fraction(12)),
        ("First #### 3\nno, wait: #### 4\nDone in 5 steps", Fraction(4)),
        ("#### 72 and 3 more words", Fraction(72)),
        ("#### **7**", Fraction(7)),
        ("#### Step one\nadd 2\n#### Conclusion\nThe answer is \\boxed{9}, not 8.", Fraction(9)),
        ("#### 3. Add\nso it is \\boxed{9}", Fraction(9)),
        (r"\boxed{4} in the draft, #### 5 in the end", Fraction(5)),
        (r"\boxed{} or \boxed{3", Fraction(3)),
        (r"half: $\frac{1}{2}$", Fraction(1, 2)),
        (r"so \boxed{\frac{3}{4}}", Fraction(3, 4)),
        (r"\boxed{1} or rather \boxed{x^{2}+1}", "x^{2}+1"),
        (r"\boxed{2\sqrt{3}}", r"2\sqrt{3}"),
        (r"\boxed{\sqrt{3}}", r"\sqrt{3}"),
        (r"\boxed{5\text{ cm}}", Fraction(5)),
        (r"\boxed{x = 7}", Fraction(7)),
        (r"\boxed{2x}", "2x"),
        (r"\boxed{50\%}", Fraction(50)),
        ("It is 10-4, which gives 6.", Fraction(6)),
        ("10-4", Fraction(4)),
        ("It fell to −3 degrees", Fraction(-3)),
        ("a total of .5", Fraction(1, 2)),
        ("she pays $1,200.50 in all", Fraction(2401, 2)),
        ("1,2 and 3,4", Fraction(4)),
        ("divide 5/0", None),
        ("no number, H2O", None),
        ("####", None),
        ("", None),
    ],
)
def test_math_answers_are_exact(text, answer):
    assert final_answer("math", text) == answer


def test_a_looping_model_may_write_more_digits_than_python_converts():
    assert final_answer("math", "9" * 6000) == Fraction(10**6000 - 1)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Entailment", "entailment"),
        ("**Entailment**. The premise does not contradict it.", "entailment"),
        ("At first neutral, but on reflection this is a contradiction.", "contradiction"),
        ("The premise entails the hypothesis", "entailment"),
        ("It is not entailment; the answer is neutral", "neutral"),
        ("Yes", "entailment"),
        ("maybe.", "neutral"),
        ("No, that is false", "contradiction"),
        ("No idea, but it sounds neutral", "neutral"),
        ("It depends", None),
        ("", None),
    ],
)
def test_nli_labels_are_found(text, label):
    assert final_answer("nli", text) == label


def test_qa_follows_squad_normalisation():
    assert normalise_qa("The  Eiffel-Tower, in a city!") == "eiffeltower in city"
    assert same_final_answer("qa", "the Eiffel Tower.", "Eiffel tower") is True
    assert same_final_answer("qa", "Paris, France", "Paris") is False


def test_there_is_no_verdict_without_something_to_compare():
    assert same_final_answer("math", "#### 3", None) is None
    assert same_final_answer("math", "#### 3", "a proof") is None
    assert same_final_answer("summarization", "same", "same") is None
    assert same_final_answer("math", "I give up", "#### 3") is False
