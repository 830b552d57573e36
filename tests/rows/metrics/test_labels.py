"""Answers that are right or wrong, and labels."""

import pytest

from engine.rows.metrics import score_of, statistics_of

ENTAILS, NEUTRAL, CONTRADICTS = "entailment", "neutral", "contradiction"


def score(metric, task, texts, references):
    return score_of(metric, statistics_of(metric, task, texts, references))


def test_exact_match_compares_final_answers():
    found = statistics_of(
        "exact_match", "math", ["so #### 4", "5", "", "the 1,000"], ["4.0", "#### 6", "7", "$1000"]
    )
    assert found[:, 0].tolist() == [1, 0, 0, 1]
    assert score_of("exact_match", found) == 0.5


def test_one_of_several_right_answers_is_enough():
    assert score("exact_match", "qa", ["Lisboa"], [["Lisbon", "Lisboa"]]) == 1
    assert score("exact_match", "math", ["12"], [["7", "8"]]) == 0


def test_accuracy_compares_labels():
    texts = ["Entails.", "yes", "?"]
    assert score("accuracy", "nli", texts, [ENTAILS, NEUTRAL, NEUTRAL]) == pytest.approx(1 / 3)


def test_macro_f1_is_the_mean_over_labels_however_rare():
    wanted = [ENTAILS] * 8 + [NEUTRAL, CONTRADICTS]
    always = [ENTAILS] * 10
    assert score("accuracy", "nli", always, wanted) == 0.8
    assert score("macro_f1", "nli", always, wanted) == pytest.approx((2 * 8 / 18 + 0 + 0) / 3)
    assert score("macro_f1", "nli", wanted, wanted) == 1


def test_macro_f1_by_hand_with_answers_that_have_no_label():
    wanted = [ENTAILS, ENTAILS, NEUTRAL, CONTRADICTS]
    said = [ENTAILS, "who knows", ENTAILS, CONTRADICTS]
    f1_entails = 2 * 1 / (2 + 2)
    assert score("macro_f1", "nli", said, wanted) == pytest.approx((f1_entails + 0 + 1) / 3)
    assert score("no_label", "nli", said, wanted) == 0.25


def test_macro_f1_leaves_out_labels_that_nobody_wants():
    assert score("macro_f1", "nli", [ENTAILS, NEUTRAL], [ENTAILS, ENTAILS]) == pytest.approx(2 / 3)
    nobody = statistics_of("macro_f1", "nli", [ENTAILS], ["???"])
    assert score_of("macro_f1", nobody) is None


def test_the_letters_that_a_prompt_gives_its_labels_are_read():
    prompt = "Is it A) contradiction, B) neutral or C) entailment?"
    for metric, statistics in (("accuracy", [1.0, 1.0]), ("macro_f1", [1.0, 1.0, 1.0])):
        found = statistics_of(metric, "nli", ["C"], [ENTAILS], sources=[prompt])
        assert found[0][: len(statistics)].tolist() == statistics
    assert score("accuracy", "nli", ["C"], [CONTRADICTS]) == 1
