"""Votes, and what they come to; figures worked out by hand."""

import numpy as np
import pytest

from engine.rows.judging.duel import EQUAL, Duel
from engine.rows.judging.duels import (
    compare_duels,
    compare_grades,
    length_correlation,
    longer_won,
    mean_grade,
    positions_of,
    win_rate,
)

WIN = Duel("first", "second")
LOSS = Duel("second", "first")


@pytest.mark.parametrize(
    ("ours_first", "theirs_first", "result", "is_flip"),
    [
        ("first", "second", "win", False),
        ("second", "first", "loss", False),
        ("tie", "tie", "tie", False),
        ("first", "first", "tie", True),
        ("second", "second", "tie", True),
        ("first", "tie", "tie", False),
        ("tie", "first", "tie", False),
        ("first", None, None, False),
        (None, None, None, False),
    ],
)
def test_both_orders_must_agree(ours_first, theirs_first, result, is_flip):
    duel = Duel(ours_first, theirs_first)
    assert (duel.result, duel.is_flip) == (result, is_flip)


def test_a_silence_is_no_vote():
    """Three wins and a loss: the unjudged pairs are in no figure."""
    duels = [WIN] * 3 + [LOSS] + [Duel("first", None)] * 5
    found = compare_duels(duels, 100, 0)
    assert (found.wins, found.losses, found.ties, found.n) == (3, 1, 0, 4)
    assert win_rate(found.difference) == 0.75


def test_ties_are_half_a_win():
    found = compare_duels([WIN, EQUAL, Duel("first", "first"), LOSS, WIN], 100, 0)
    assert (found.wins, found.losses, found.ties) == (2, 1, 2)
    assert win_rate(found.difference) == pytest.approx(3 / 5)


def test_without_any_vote_there_is_no_rate():
    assert compare_duels([Duel(None, "first")], 100, 0) is None
    assert compare_duels([], 100, 0) is None


def test_a_clear_winner_is_shown_and_a_few_pairs_show_nothing():
    assert compare_duels([WIN] * 30 + [LOSS] * 10, 100, 0).p < 0.01
    few = compare_duels([WIN] * 3, 100, 0)
    assert few.p == pytest.approx(1 / 8)  # 2 (1/2)^3, of which the outcome itself counts half


def test_turns_of_a_dialogue_count_as_one():
    duels = [WIN] * 12 + [LOSS] * 8
    groups = [at // 4 for at in range(20)]
    alone = compare_duels(duels, 2000, 0)
    together = compare_duels(duels, 2000, 0, groups)
    assert (together.n, together.clusters) == (20, 5)
    assert together.ci95[1] - together.ci95[0] > alone.ci95[1] - alone.ci95[0]


def test_intervals_hold_the_true_win_rate():
    """Of 200 judged sets of 60 pairs (45 % wins, 25 % ties), the interval leaves it out in about
    one of twenty."""
    draws = np.random.default_rng(0)
    kinds = [WIN, EQUAL, LOSS]
    held = 0
    for _ in range(200):
        chosen = draws.choice(3, 60, p=(0.45, 0.25, 0.3))
        found = compare_duels([kinds[one] for one in chosen], 100, 0)
        low, high = map(win_rate, found.ci95)
        held += low <= 0.45 + 0.25 / 2 <= high
    assert 0.92 <= held / 200 <= 0.98


def test_a_judge_of_places_is_seen():
    positions = positions_of([Duel("first", "first")] * 12)
    assert (positions.named, positions.first, positions.first_share) == (24, 24, 1)
    assert positions.p < 0.001


def test_a_judge_of_answers_names_both_places_alike():
    positions = positions_of([WIN] * 5 + [LOSS] * 7 + [EQUAL])
    assert (positions.named, positions.first_share, positions.p) == (24, 0.5, 1)


def test_a_judge_without_votes_has_no_place():
    assert positions_of([Duel(None, None), EQUAL]).first_share is None


def duel(result, ours, theirs):
    votes = {"win": ("first", "second"), "loss": ("second", "first"), "tie": ("tie", "tie")}
    return Duel(*votes[result], ours, theirs)


def test_the_longer_answers_wins_are_counted_where_one_is_longer():
    duels = [duel("win", 9, 2), duel("loss", 9, 2), duel("loss", 2, 9), duel("win", 4, 4)]
    assert longer_won([*duels, duel("tie", 1, 2)]) == pytest.approx(2 / 3)
    assert longer_won([EQUAL]) is None


def test_length_and_result_correlate_where_length_wins():
    duels = [duel("win", 10 + n, 5) for n in range(6)] + [duel("loss", 2, 9 + n) for n in range(6)]
    assert length_correlation(duels) > 0.8
    turned = [
        Duel(one.ours_first, one.theirs_first, one.their_words, one.our_words) for one in duels
    ]
    assert length_correlation(turned) == -length_correlation(duels)
    assert length_correlation(duels[:9]) is None, "too few to say"


def test_grades_are_averaged_where_there_are_any():
    mean, (low, high) = mean_grade([4, None, 2, 3], 500, 0)
    assert mean == 3
    assert 2 <= low < 3 < high <= 4
    assert mean_grade([None], 100, 0) == (None, None)


def test_grades_are_compared_on_the_same_prompts():
    found = compare_grades([5, 4, None, 3], [4, 4, 1, None], 500, 0)
    assert (found.n, found.difference, found.wins, found.ties) == (2, 0.5, 1, 1)
    assert compare_grades([None], [3], 100, 0) is None
