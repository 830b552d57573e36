import pytest

from engine.rows.answers.labels import (
    AMBIGUOUS,
    NOT_ENTAILMENT,
    label_of,
    options_in,
    reference_label,
    same_label,
)

ENTAILMENT, NEUTRAL, CONTRADICTION = "entailment", "neutral", "contradiction"


@pytest.mark.parametrize(
    ("text", "label"),
    [
        # a verdict, then its explanation
        ("**Answer:** entailment\n\nExplanation: nothing here is contradictory.", ENTAILMENT),
        ("The answer is entailment because there is no contradiction.", ENTAILMENT),
        ("Label: neutral. The premise does not entail it, nor contradict it.", NEUTRAL),
        (
            "Contradiction, since nobody can be asleep and awake. Neutral would be wrong.",
            CONTRADICTION,
        ),
        ('{"label": "neutral", "reason": "neither entailment nor contradiction"}', NEUTRAL),
        ("<answer>neutral</answer> I ruled out contradiction.", NEUTRAL),
        # an explanation, then the verdict
        ("At first neutral, but on reflection this is a contradiction.", CONTRADICTION),
        ("A cat is an animal. Therefore, the correct label is entailment.", ENTAILMENT),
        ("It may look like entailment; however, the answer is neutral.", NEUTRAL),
        ("Neutral is wrong. The answer is entailment.", ENTAILMENT),
        # denials
        ("The premise doesn't entail the hypothesis, and does not contradict it: neutral", NEUTRAL),
        ("neither entailment nor contradiction", NEUTRAL),
        ("It is contradiction rather than neutral.", CONTRADICTION),
        ("entailment instead of neutral", ENTAILMENT),
        ("There is no doubt that this is a contradiction.", CONTRADICTION),
        ("Is it entailment? No, it is a contradiction.", CONTRADICTION),
        ("The premise does not entail the hypothesis.", NOT_ENTAILMENT),
        ("non entailment", NOT_ENTAILMENT),
        ("not a contradiction", AMBIGUOUS),
        ("It could be entailment or neutral.", AMBIGUOUS),
        # other words
        ("The hypothesis follows from the premise.", ENTAILMENT),
        ("There is not enough information to tell.", NEUTRAL),
        ("The two cannot both be true.", CONTRADICTION),
        ("The hypothesis may or may not be true.", NEUTRAL),
        ("No, that is false", CONTRADICTION),
        # numbers and letters
        ("1", NEUTRAL),
        ("Label: 2", CONTRADICTION),
        ("(B)", NEUTRAL),
        ("E", ENTAILMENT),
        ("-1", None),
        # other languages
        ("La respuesta es: implicación", ENTAILMENT),
        ("C'est neutre, car rien ne le contredit.", NEUTRAL),
        ("Das ist ein Widerspruch.", CONTRADICTION),
        ("答案是矛盾。", CONTRADICTION),
        ("यह विरोधाभास नहीं, तटस्थ है।", NEUTRAL),
        ("Ответ: противоречие, а не нейтральность.", CONTRADICTION),
        ("It depends", None),
        ("", None),
    ],
)
def test_the_label_is_the_one_that_is_asserted(text, label):
    assert label_of(text) == label


def test_a_list_of_all_labels_is_no_answer():
    listed = "Options: entailment, neutral, contradiction."
    assert label_of(listed) is None
    assert label_of(f"{listed} Answer: contradiction") == CONTRADICTION


def test_names_of_the_job_come_before_the_usual_ones():
    names = {"refutes": CONTRADICTION, "supports": ENTAILMENT, "0": CONTRADICTION}
    assert label_of("The evidence refutes the claim.", names) == CONTRADICTION
    assert label_of("0", names) == CONTRADICTION
    assert label_of("0") == ENTAILMENT
    assert reference_label("Supports", names) == ENTAILMENT


def test_a_prompt_may_give_labels_letters_of_its_own():
    asked = "Is it (A) contradiction, (B) entailment or (C) neutral?"
    assert options_in(asked) == {"a": CONTRADICTION, "b": ENTAILMENT, "c": NEUTRAL}
    assert label_of("A", options_in(asked)) == CONTRADICTION
    assert options_in("Answer with entailment, neutral or contradiction.") == {}


def test_of_two_labels_everything_else_is_no_entailment():
    assert reference_label("not_entailment") == NOT_ENTAILMENT
    assert same_label(NEUTRAL, NOT_ENTAILMENT) is True
    assert same_label(ENTAILMENT, NOT_ENTAILMENT) is False
    assert same_label(NOT_ENTAILMENT, NEUTRAL) is None
    assert same_label(NOT_ENTAILMENT, ENTAILMENT) is False
