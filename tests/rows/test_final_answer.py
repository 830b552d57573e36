from fractions import Fraction

import pytest

from engine.rows.answers.labels import label_of
from engine.rows.answers.mathematics import answer_of
from engine.rows.final_answer import (
    Rules,
    Undecided,
    Verdict,
    is_readable,
    judge,
    rules_for,
    same_final_answer,
    settle,
)


def number_or_text(text):
    value = answer_of(text)
    if value is None:
        return None
    return value.numbers[0] if value.numbers else value.text


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
    assert number_or_text(text) == answer


def test_a_looping_model_may_write_more_digits_than_python_converts():
    assert number_or_text("9" * 6000) == Fraction(10**6000 - 1)


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
    assert label_of(text) == label


def test_there_is_no_verdict_without_something_to_compare():
    assert same_final_answer("math", "#### 3", None) is None
    assert same_final_answer("math", "#### 3", "a proof") is None
    assert same_final_answer("summarization", "same", "same") is None
    assert same_final_answer("math", "I give up", "#### 3") is False


def test_qa_answers_are_equal_word_for_word():
    assert same_final_answer("qa", "the Eiffel Tower.", "Eiffel tower") is True
    assert same_final_answer("qa", "Paris, France", "Paris") is False


@pytest.mark.parametrize(
    ("answer", "reference", "same"),
    [
        (r"\boxed{-\frac{1}{2}}", "#### -1/2", True),
        (r"So $x = -\frac{1}{2}$.", "1/2", False),
        (r"\boxed{1\frac{1}{2}}", "1.5", True),
        (r"\boxed{-\dfrac{3}{4}}", r"\boxed{\frac{-3}{4}}", True),
        (r"\boxed{$9{,}500}", "9500", True),
        (r"The answer is $9{,}500.", "500", False),
        (r"\boxed{1{,}234{,}567\text{ dollars}}", "1234567", True),
        (r"We get $\boxed{4\sqrt{7}}$.", r"4\sqrt{7}", True),
        (r"We get $\boxed{60^\circ}$.", r"60^\circ", True),
        (r"\boxed{1}", "x^2+1", False),
    ],
)
def test_latex_and_its_references_are_read_alike(answer, reference, same):
    assert same_final_answer("math", answer, reference) is same


@pytest.mark.parametrize(
    "reference",
    [
        r"\left( 5, \frac{\pi}{3} \right)",
        "x^2+1",
        r"4\sqrt{7}",
        r"60^\circ",
        "7 - 2i",
        r"\frac{\sqrt{2}}{5}",
        "a - b",
    ],
)
def test_a_reference_in_bare_latex_is_read_whole(reference):
    assert judge("math", f"We get $\\boxed{{{reference}}}$.", [reference]) == Verdict.RIGHT


@pytest.mark.parametrize(
    ("task", "text", "references", "verdict"),
    [
        ("math", "It is 4.", ["4"], Verdict.RIGHT),
        ("math", "It is 5.", ["4"], Verdict.WRONG),
        ("math", "It is 5.", ["4", "5"], Verdict.RIGHT),
        ("math", "I cannot say.", ["4"], Verdict.NO_ANSWER),
        ("math", "The answer is 4 or 5.", ["4"], Verdict.AMBIGUOUS),
        ("math", "The answer is 4 or 5.", ["6"], Verdict.WRONG),
        ("math", "x = 3, y = 4", ["4"], Verdict.AMBIGUOUS),
        ("math", "The two numbers are 7 and 13.", ["13, 7"], Verdict.RIGHT),
        ("math", "It is on a Tuesday.", ["Tuesday"], Verdict.RIGHT),
        ("math", "It is on a Monday.", ["Tuesday"], Verdict.NO_ANSWER),
        ("math", "#### 3", ["a proof"], None),
        ("nli", "neutral", ["entailment", "neutral"], Verdict.RIGHT),
        ("nli", "It could be entailment or neutral.", ["neutral"], Verdict.AMBIGUOUS),
        ("nli", "The premise does not entail it.", ["neutral"], Verdict.AMBIGUOUS),
        ("nli", "neutral", ["not_entailment"], Verdict.RIGHT),
        ("nli", "It depends", ["neutral"], Verdict.NO_ANSWER),
        ("nli", "neutral", ["-1"], None),
        ("qa", "He lives in Yorkville.", ["Yorkville", "City of Yorkville"], Verdict.RIGHT),
        ("qa", "  ", ["Yorkville"], Verdict.NO_ANSWER),
        ("qa", "Yes", ["A long text that says in many words what it was."], None),
        ("summarization", "same", ["same"], None),
    ],
)
def test_a_verdict_says_what_an_answer_is(task, text, references, verdict):
    assert judge(task, text, references) == verdict


GOLD = r"\sin(x)+1"
SAID = r"1+\sin(x)"


def test_what_only_algebra_can_tell_is_left_to_it():
    judged = judge("math", rf"\boxed{{{SAID}}}", [GOLD])
    assert judged == Undecided(((GOLD, SAID),))
    assert judge("math", r"\boxed{\log_2 128}", ["8", "7"]) == Undecided(
        (("8", r"\log_2 128"), ("7", r"\log_2 128"))
    )
    asked = []

    def algebra(pairs):
        asked.append(list(pairs))
        return [True if pair == (GOLD, SAID) else None for pair in pairs]

    several = [judged, Verdict.WRONG, judge("math", r"\boxed{y}", [GOLD]), judged, None]
    assert settle(several, algebra) == [
        Verdict.RIGHT,
        Verdict.WRONG,
        Verdict.UNVERIFIED,
        Verdict.RIGHT,
        None,
    ]
    assert asked == [[(GOLD, SAID), (GOLD, "y")]]  # each pair once, all at once


def test_without_algebra_nothing_is_called_wrong_that_may_be_right():
    assert settle([judge("math", rf"\boxed{{{SAID}}}", [GOLD])], None) == [Verdict.UNVERIFIED]


def test_different_expressions_are_wrong_once_algebra_says_so():
    judged = judge("math", r"\boxed{y}", [GOLD])
    assert settle([judged], lambda pairs: [False] * len(pairs)) == [Verdict.WRONG]


def test_a_job_may_name_labels_and_the_rule_of_qa():
    rules = rules_for("exact", {"REFUTES": "contradiction"})
    assert judge("nli", "It refutes the claim.", ["contradiction"], rules) == Verdict.RIGHT
    assert judge("qa", "He lives in Yorkville.", ["Yorkville"], rules) == Verdict.WRONG
    long = "one two three four five six seven"
    assert not is_readable("qa", long)
    assert is_readable("qa", long, Rules(qa="f1>=0.5"))
    assert judge("qa", "one two three four five", [long], Rules(qa="f1>=0.5")) == Verdict.RIGHT


def test_letters_mean_what_the_prompt_says():
    asked = "(A) contradiction (B) neutral (C) entailment"
    assert judge("nli", "A", ["contradiction"], prompt=asked) == Verdict.RIGHT
    assert judge("nli", "A", ["contradiction"]) == Verdict.WRONG
