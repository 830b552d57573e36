import numpy as np
import pytest
import sacrebleu

from engine.errors import SpecError
from engine.rows.metrics import (
    interval_of,
    resolve_metrics,
    retention_interval,
    score_of,
    statistics_of,
)

HYPOTHESES = ["the cat sat on mat", "a dog barks", "", "hello there general kenobi"]
REFERENCES = [
    "the cat sat on the mat",
    "the dog barks loudly",
    "nothing",
    "hello there general kenobi",
]


def statistics(metric, texts, references, task="conversation"):
    return statistics_of(metric, task, texts, references)


def test_exact_match_compares_final_answers():
    found = statistics(
        "exact_match", ["so #### 4", "5", "", "the 1,000"], ["4.0", "#### 6", "7", "$1000"], "math"
    )
    assert found.ravel().tolist() == [1, 0, 0, 1]
    assert score_of("exact_match", found) == 0.5


def test_accuracy_compares_labels():
    found = statistics(
        "accuracy", ["Entails.", "yes", "?"], ["entailment", "neutral", "neutral"], "nli"
    )
    assert score_of("accuracy", found) == pytest.approx(1 / 3)


def test_f1_is_the_overlap_of_words():
    precision, recall = 2 / 2, 2 / 3  # articles do not count
    found = statistics("f1", ["the cat sat", "dog", ""], ["a cat sat down", "cat", "cat"], "qa")
    assert found.ravel() == pytest.approx([2 * precision * recall / (precision + recall), 0, 0])


def test_bleu_from_summed_counts_is_sacrebleu_corpus_bleu():
    found = statistics("bleu", HYPOTHESES, REFERENCES)
    assert score_of("bleu", found) == pytest.approx(
        sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES]).score / 100, rel=1e-12
    )
    assert score_of("bleu", statistics("bleu", REFERENCES, REFERENCES)) == pytest.approx(1)
    assert score_of("bleu", statistics("bleu", [""], ["gone"])) == 0


def test_rouge_l_is_the_mean_f_of_the_longest_common_subsequence():
    found = statistics("rougeL", ["the cat ran", ""], ["the black cat sat", "x"])
    assert found.ravel() == pytest.approx([2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4), 0])


def test_proportions_have_the_wilson_interval():
    found = np.array([[1.0]] * 8 + [[0.0]] * 2)
    # Newcombe (1998), method 3: p = 0.8, n = 10, z = 1.959964
    assert interval_of("exact_match", found, 1000, 0) == pytest.approx([0.4902, 0.9433], abs=1e-4)


def test_the_bootstrap_interval_of_a_mean_is_near_the_normal_one_and_seeded():
    found = np.random.default_rng(0).random((400, 1))
    low, high = interval_of("f1", found, 2000, seed=3)
    half = 1.96 * found.std() / 20
    assert [low, high] == pytest.approx([found.mean() - half, found.mean() + half], abs=0.004)
    assert [low, high] == interval_of("f1", found, 2000, seed=3)


def test_the_bootstrap_of_bleu_contains_the_score():
    found = statistics("bleu", HYPOTHESES * 5, REFERENCES * 5)
    low, high = interval_of("bleu", found, 200, 0)
    assert low < score_of("bleu", found) < high


def test_retention_is_paired_over_prompts():
    teacher = np.array([[1.0], [0.0]] * 50)
    assert retention_interval("exact_match", teacher, teacher, 200, 0) == [1, 1]
    low, high = retention_interval(
        "exact_match", teacher * np.array([[1.0], [1.0], [0.0], [1.0]] * 25), teacher, 500, 0
    )
    assert low < 0.5 < high
    assert retention_interval("exact_match", teacher, teacher * 0, 100, 0) is None


def test_metrics_of_another_task_are_refused():
    assert resolve_metrics("qa", "auto") == ["exact_match", "f1"]
    assert resolve_metrics("qa", ["f1"]) == ["f1"]
    with pytest.raises(
        SpecError, match=r"evaluate.metrics=\['bleu'\]; choose from exact_match for task math"
    ):
        resolve_metrics("math", ["bleu"])
