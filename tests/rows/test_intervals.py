"""Intervals hold what they promise."""

import numpy as np
import pytest

from engine.rows.intervals import (
    group_sums,
    has_groups,
    interval_of,
    percentiles,
    resampled,
    retention_interval,
)
from engine.rows.metrics import score_of, statistics_of

HYPOTHESES = ["the cat sat on mat", "a dog barks", "", "hello there general kenobi"]
REFERENCES = ["the cat sat on the mat", "the dog barks loudly", "nothing", "hello there general"]


def counted(values):
    """Statistics of a mean."""
    return np.stack([values, np.ones(len(values))], 1)


def test_proportions_have_the_wilson_interval():
    found = counted([1.0] * 8 + [0.0] * 2)
    # Newcombe (1998), method 3: p = 0.8, n = 10, z = 1.959964
    assert interval_of("exact_match", found, 1000, 0) == pytest.approx([0.4902, 0.9433], abs=1e-4)


def test_the_bootstrap_interval_of_a_mean_is_near_the_normal_one_and_seeded():
    values = np.random.default_rng(0).random(400)
    low, high = interval_of("f1", counted(values), 2000, seed=3)
    half = 1.96 * values.std() / 20
    assert [low, high] == pytest.approx([values.mean() - half, values.mean() + half], abs=0.004)
    assert [low, high] == interval_of("f1", counted(values), 2000, seed=3)


def test_the_bootstrap_of_bleu_contains_the_score():
    found = statistics_of("bleu", "conversation", HYPOTHESES * 5, REFERENCES * 5)
    low, high = interval_of("bleu", found, 200, 0)
    assert low < score_of("bleu", found) < high


def test_retention_is_paired_over_prompts():
    teacher = counted([1.0, 0.0] * 50)
    assert retention_interval("exact_match", teacher, teacher, 200, 0) == [1, 1]
    student = counted([1.0, 0.0, 0.0, 0.0] * 25)
    low, high = retention_interval("exact_match", student, teacher, 500, 0)
    assert low < 0.5 < high
    nothing = counted([0.0] * 100)
    assert retention_interval("exact_match", teacher, nothing, 100, 0) is None


def test_answers_that_belong_together_say_less():
    """Ten copies of an answer are one: the interval is that of the 40 groups."""
    values = np.random.default_rng(1).random(40)
    clusters = np.repeat(np.arange(40), 10).tolist()
    alone = interval_of("f1", counted(values), 4000, 0)
    together = interval_of("f1", counted(np.repeat(values, 10)), 4000, 0, clusters)
    naive = interval_of("f1", counted(np.repeat(values, 10)), 4000, 0)
    assert together == pytest.approx(alone)
    assert together[1] - together[0] > 3 * (naive[1] - naive[0])


def test_a_proportion_of_groups_is_bootstrapped():
    found = counted([1.0] * 30 + [0.0] * 10)
    clusters = [at // 10 for at in range(40)]
    low, high = interval_of("exact_match", found, 2000, 0, clusters)
    assert (low, high) != tuple(interval_of("exact_match", found, 2000, 0))
    assert low <= 0.25
    assert high == 1


def test_groups_are_summed_whatever_their_names_and_order():
    sums = group_sums(np.array([[1.0], [2.0], [4.0]]), ["b", "a", "b"])
    assert sums.tolist() == [[5], [2]]
    assert has_groups(["b", "a", "b"])
    assert not has_groups(["b", "a"])
    assert not has_groups(None)


def test_resamples_draw_as_many_groups_as_there_are():
    ones = np.ones((7, 2))
    assert resampled(ones, 50, 0).tolist() == [[7, 7]] * 50
    whole = resampled(np.arange(1400.0).reshape(700, 2), 9000, 1)  # more than one portion
    assert whole.shape == (9000, 2)
    assert whole[:, 0].mean() == pytest.approx(np.arange(0, 1400, 2).sum(), rel=0.01)


def test_percentiles_leave_out_what_is_no_number():
    assert percentiles(np.array([np.nan, 1.0, 1.0])) == [1, 1]
    assert percentiles(np.array([np.nan])) is None
