"""Two models on the same prompts: the tests keep their level, find what is there, and say what they
could not find."""

import math

import numpy as np
import pytest
from scipy import stats

from engine.rows.comparison import (
    ALPHA,
    BOOTSTRAP,
    MCNEMAR,
    bootstrap_interval,
    bootstrap_p,
    compare,
    compare_metric,
    difference_interval,
    holm,
    mcnemar_mde,
    mcnemar_mid_p,
)

WITHIN = 0.012  # of 5 %, in 2,000 simulated comparisons: 2.5 standard errors


def counted(values):
    """Statistics of a mean."""
    return np.stack([np.asarray(values, float), np.ones(len(values))], 1)


def test_mid_p_by_hand():
    assert mcnemar_mid_p(0, 0) == 1
    assert mcnemar_mid_p(5, 5) == 1
    assert mcnemar_mid_p(5, 0) == pytest.approx(2 / 32 - 1 / 32)
    # 1 of 6: 2 (1 + 6) / 64 - 6 / 64
    assert mcnemar_mid_p(1, 5) == pytest.approx(8 / 64)
    assert mcnemar_mid_p(5, 1) == mcnemar_mid_p(1, 5)


def test_mid_p_lies_between_the_chi_squared_and_the_exact_test():
    for wins, losses in ((20, 9), (31, 14), (120, 80)):
        exact = stats.binomtest(wins, wins + losses).pvalue
        chi = stats.chi2.sf((wins - losses) ** 2 / (wins + losses), 1)
        assert chi - 0.01 < mcnemar_mid_p(wins, losses) < exact


def false_positives(wins, losses):
    """Share of significant results: of pairs of counts."""
    found = {}
    for pair in zip(wins.tolist(), losses.tolist(), strict=True):
        found.setdefault(pair, 0)
        found[pair] += 1
    hits = sum(count for pair, count in found.items() if mcnemar_mid_p(*pair) < ALPHA)
    return hits / len(wins)


@pytest.mark.parametrize("prompts", [200, 1000])
def test_equal_models_differ_significantly_in_5_of_100_comparisons(prompts):
    draws = np.random.default_rng(prompts)
    outcomes = draws.multinomial(prompts, [0.15, 0.15, 0.7], size=10_000)
    assert false_positives(outcomes[:, 0], outcomes[:, 1]) == pytest.approx(0.05, abs=0.005)


def test_few_prompts_keep_below_the_level():
    draws = np.random.default_rng(0)
    outcomes = draws.multinomial(20, [0.1, 0.1, 0.8], size=4000)
    assert false_positives(outcomes[:, 0], outcomes[:, 1]) < 0.04


def bootstrap_hits(draw, runs, clusters=None):
    hits = 0
    for seed in range(runs):
        ours, theirs = draw(np.random.default_rng(seed))
        found = compare_metric("f1", counted(ours), counted(theirs), 400, seed, clusters)
        assert found.test == BOOTSTRAP
        hits += found.p < ALPHA
    return hits / runs


def similar(draws, count=80):
    """Two models that find the same prompts hard; scores from 0 to 1, with ties at the ends."""
    hardness = draws.random(count)
    return np.clip(hardness + draws.normal(0, 0.4, (2, count)), 0, 1)


def test_the_bootstrap_keeps_its_level():
    assert bootstrap_hits(similar, 2000) == pytest.approx(0.05, abs=WITHIN)


def test_the_bootstrap_keeps_below_its_level_where_few_answers_differ():
    def rarely(draws):
        ours = draws.random(60)
        differs = draws.random(60) < 0.1
        return ours, np.where(differs, draws.random(60), ours)

    assert bootstrap_hits(rarely, 1000) < 0.05


def test_turns_of_a_dialogue_are_no_independent_prompts():
    clusters = np.repeat(np.arange(40), 6).tolist()

    def dialogues(draws):
        ours, theirs = similar(draws, 40)
        noise = draws.normal(0, 0.05, (2, 240))
        return np.repeat(ours, 6) + noise[0], np.repeat(theirs, 6) + noise[1]

    assert bootstrap_hits(dialogues, 1000, clusters) == pytest.approx(0.05, abs=0.017)
    assert bootstrap_hits(dialogues, 200) > 0.25  # as if they were


def test_proportions_in_dialogues_are_bootstrapped_by_dialogue():
    ours, theirs = counted([1, 1, 0, 0] * 10), counted([1, 0, 0, 0] * 10)
    clusters = [at // 4 for at in range(40)]
    found = compare_metric("accuracy", ours, theirs, 500, 0, clusters)
    assert (found.test, found.n, found.clusters) == (BOOTSTRAP, 40, 10)
    assert compare_metric("accuracy", ours, theirs, 500, 0, list(range(40))).test == MCNEMAR


def test_a_paired_test_finds_more_than_an_unpaired_one():
    paired = unpaired = 0
    for seed in range(300):
        draws = np.random.default_rng(seed)
        hardness = draws.beta(0.5, 0.5, 300)
        ours = draws.random(300) < np.clip(hardness + 0.06, 0, 1)
        theirs = draws.random(300) < hardness
        found = compare_metric("accuracy", counted(ours), counted(theirs), 100, 0)
        paired += found.p < ALPHA
        table = [[ours.sum(), 300 - ours.sum()], [theirs.sum(), 300 - theirs.sum()]]
        unpaired += stats.chi2_contingency(table, correction=False).pvalue < ALPHA
    assert paired > 1.3 * unpaired


@pytest.mark.parametrize(("n", "share"), [(200, 0.3), (1000, 0.1)])
def test_the_smallest_difference_is_found_in_4_of_5_cases(n, share):
    difference = mcnemar_mde(round(share * n), n)
    wins, losses = (share + difference) / 2, (share - difference) / 2
    outcomes = np.random.default_rng(1).multinomial(n, [wins, losses, 1 - share], size=4000)
    assert false_positives(outcomes[:, 0], outcomes[:, 1]) == pytest.approx(0.8, abs=0.03)


def test_the_smallest_difference_of_means_is_found_in_4_of_5_cases():
    ours, theirs = similar(np.random.default_rng(5), 2000)
    spread = (ours - theirs).std()
    ours, theirs = similar(np.random.default_rng(6))
    mde = compare_metric("f1", counted(ours), counted(theirs), 1000, 0).mde
    assert mde == pytest.approx(2.8 * spread / math.sqrt(80), rel=0.25)

    def better(draws):
        ours, theirs = similar(draws)
        return ours + 2.8 * spread / math.sqrt(80), theirs

    assert bootstrap_hits(better, 300) == pytest.approx(0.8, abs=0.07)


def test_too_few_prompts_can_show_nothing():
    assert mcnemar_mde(0, 4) is None
    assert mcnemar_mde(0, 5) == 1
    assert mcnemar_mde(0, 1000) == pytest.approx(5 / 1000)
    found = compare_metric("f1", counted([0.5]), counted([0.25]), 100, 0)
    assert (found.p, found.ci95, found.mde, found.difference) == (1, None, None, 0.25)


def test_the_same_answers_are_no_difference():
    scores = counted([0.1, 0.9, 0.4])
    found = compare_metric("f1", scores, scores, 100, 0)
    assert (found.difference, found.p, found.mde, found.ties) == (0, 1, None, 3)
    right = counted([1, 0, 1])
    assert compare_metric("accuracy", right, right, 100, 0).p == 1


def test_the_interval_of_paired_proportions_is_bonett_and_prices():
    ours = [1] * 28 + [1] * 12 + [0] * 4 + [0] * 6
    theirs = [1] * 28 + [0] * 12 + [1] * 4 + [0] * 6
    more, less = 13 / 52, 5 / 52
    half = 1.959964 * math.sqrt((more + less - (more - less) ** 2) / 52)
    found = difference_interval(np.array(ours), np.array(theirs))
    assert found == pytest.approx([more - less - half, more - less + half], abs=1e-6)


def test_its_intervals_hold_the_truth_in_95_of_100_cases():
    draws = np.random.default_rng(2)
    outcomes = draws.multinomial(150, [0.2, 0.1, 0.7], size=2000)
    held = 0
    for wins, losses, ties in outcomes.tolist():
        ours = np.array([1] * wins + [0] * losses + [1] * ties)
        theirs = np.array([0] * wins + [1] * losses + [1] * ties)
        low, high = difference_interval(ours, theirs)
        held += low <= 0.1 <= high
    assert held / 2000 == pytest.approx(0.95, abs=0.015)


def test_p_and_interval_of_the_bootstrap_agree():
    draws = np.random.default_rng(3)
    for groups in (8, 30, 400):
        for shift in (0.0, 1.6, 2.0, 2.4, 4.0):
            differences = draws.normal(shift, 1, 20_000)
            low, _ = bootstrap_interval(differences, groups)
            assert (bootstrap_p(differences, groups) < ALPHA) == (low > 0)


def test_no_p_is_smaller_than_the_resamples_can_tell():
    assert bootstrap_p(np.ones(1000), 100_000) == pytest.approx(0.001, rel=0.05)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, None, 0.6]) == [1, None, 1]
    assert holm([]) == []


def test_all_metrics_are_compared_and_corrected_but_those_that_point_nowhere():
    draws = np.random.default_rng(4)
    better, worse = draws.random(50), draws.random(50) / 2
    ours = {name: counted(better) for name in ("rougeL", "rouge1", "length_ratio")}
    theirs = {name: counted(worse) for name in ours}
    first, second = compare(ours, theirs, 1000, 0)
    assert (first.metric, second.metric) == ("rougeL", "rouge1")
    assert first.p_holm == pytest.approx(2 * first.p)
    assert first.difference == pytest.approx(better.mean() - worse.mean())
    assert first.ci95[0] < first.difference < first.ci95[1]
    assert first.wins + first.losses + first.ties == first.n == first.clusters == 50


def test_fewer_new_numbers_are_a_win():
    ours = np.array([[0.0, 2.0], [0.0, 0.0], [1.0, 1.0]])
    theirs = np.array([[1.0, 2.0], [1.0, 1.0], [1.0, 2.0]])
    found = compare_metric("new_numbers", ours, theirs, 200, 0)
    assert (found.wins, found.losses, found.ties) == (1, 1, 0)
    assert found.difference == pytest.approx(1 / 3 - 3 / 5)


def test_a_metric_with_nothing_to_score_is_not_compared():
    nothing = np.zeros((3, 2))
    found = compare_metric("slots", nothing, nothing, 200, 0)
    assert (found.difference, found.ci95, found.p, found.mde) == (None, None, None, None)


def test_the_same_seed_gives_the_same_comparison():
    ours, theirs = (counted(values) for values in similar(np.random.default_rng(9)))
    assert compare_metric("f1", ours, theirs, 500, 7) == compare_metric("f1", ours, theirs, 500, 7)
