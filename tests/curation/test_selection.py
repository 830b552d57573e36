import numpy as np
import pyarrow as pa
import pytest

from engine.curation.ledger import reasons_of
from engine.curation.selection import minority, not_best, off_difficulty, pass_rates
from engine.curation.votes import ballot_of, votes_of
from tests.doubles.ledger import is_independent_of_order, ledger


def said(*answers, **same):
    return ledger(*({"answer": answer} for answer in answers), **same)


def reasons_by_majority(table, min_agreement=0.5, **more):
    ballot = ballot_of(table, **more)
    return minority(ballot, min_agreement=min_agreement).to_pylist()


def counted(table):
    return votes_of(ballot_of(table))


def test_what_most_samples_say_stays():
    table = said("18", "18", "20", "18", None)
    kept = [None, None, "minority_answer", None, "minority_answer"]
    assert reasons_by_majority(table) == kept


@pytest.mark.parametrize(
    ("answers", "least"),
    [
        (("18", "20"), 0.5),  # a tie
        (("18", "18", "20", "20", "7"), 0.4),
        (("18", "18", "20", "7", "9"), 0.5),  # 2 of 5
        (("18", "20", None, None), 0.25),
        ((None, None), 0.1),  # nobody says anything
    ],
)
def test_without_a_majority_the_whole_group_goes(answers, least):
    assert reasons_by_majority(said(*answers), least) == ["no_majority"] * len(answers)


def test_a_single_answer_agrees_with_itself():
    assert reasons_by_majority(said("18"), 1.0) == [None]


@pytest.mark.parametrize("least", [2 / 3, 0.6667 - 1 / 30_000])
def test_two_of_three_are_two_thirds(least):
    assert reasons_by_majority(said("18", "18", "20"), least)[0] is None


def test_spellings_of_one_value_are_one_vote_whatever_their_order():
    table = said("1/3", "0.333333", "x+1", "1+x", "0.25", "0.25", "1/3")
    votes = counted(table)
    assert votes.votes.tolist() == [3, 3, 2, 2, 2, 2, 3]
    assert votes.agreement.tolist() == [3 / 7, 3 / 7, 2 / 7, 2 / 7, 2 / 7, 2 / 7, 3 / 7]

    def rule(table):
        return minority(ballot_of(table), min_agreement=0.4)

    assert is_independent_of_order(rule, table)
    assert reasons_by_majority(table, 0.4)[:3] == [None, None, "minority_answer"]


def test_what_is_the_same_as_the_same_is_the_same():
    """50 % may answer for 0.5 and for 50, so the three are one vote."""
    assert counted(said("0.5", "50", "50%", "7")).votes.tolist() == [3, 3, 3, 1]


def test_labels_and_phrases_agree_by_spelling():
    assert counted(said("1/3", "0.333333", task="qa")).votes.tolist() == [1, 1]
    assert counted(said("neutral", "neutral", task="nli")).votes.tolist() == [2, 2]


def test_a_prompt_with_a_reference_does_not_vote():
    table = ledger(
        {"p": 1, "answer": "18", "correct": True},
        {"p": 1, "answer": "20", "correct": None},  # nobody could tell
        {"p": 2, "answer": "18", "correct": False, "reason": "wrong_answer"},
        {"p": 2, "answer": "20"},
        {"p": 3, "answer": "1"},
        {"p": 3, "answer": "2"},
    )
    assert reasons_by_majority(table) == [None] * 4 + ["no_majority"] * 2
    assert counted(table).votes.tolist() == [0, 0, 0, 0, 1, 1]
    assert np.isnan(counted(table).agreement).tolist() == [True] * 4 + [False] * 2


def test_what_is_out_already_neither_votes_nor_counts():
    table = ledger(
        {"answer": "18"},
        {"answer": "20", "reason": "truncated"},
        {"answer": "20", "reason": "loop"},
    )
    assert reasons_by_majority(table, 1.0) == [None, None, None]


def test_tasks_without_final_answers_are_left_alone():
    assert reasons_by_majority(said(None, None, task="conversation")) == [None, None]


def test_teachers_vote_together_or_apart():
    table = ledger(
        {"t": "a", "answer": "18"},
        {"t": "a", "answer": "18"},
        {"t": "b", "answer": "20"},
    )
    assert reasons_by_majority(table) == [None, None, None]
    assert reasons_by_majority(table, across="teachers") == [None, None, "minority_answer"]


def test_pass_rates_count_dropped_answers_and_leave_out_what_nobody_knows():
    table = ledger(
        {"p": 1, "t": "a", "correct": True},
        {"p": 1, "t": "a", "correct": False, "reason": "wrong_answer"},
        {"p": 1, "t": "b", "correct": True},
        {"p": 1, "t": "b", "correct": None, "reason": "unverified"},
        {"p": 2, "t": "a", "correct": None},
    )
    np.testing.assert_array_equal(pass_rates(table), [0.5, 0.5, 1, 1, np.nan])
    together = pass_rates(table, across="teachers")
    np.testing.assert_array_equal(together, [2 / 3, 2 / 3, 2 / 3, 2 / 3, np.nan])


def test_tries_that_came_to_no_end_count_as_not_right():
    rows = [{"correct": None, "reason": "truncated"}] * 5
    rows += [{"correct": None, "reason": "loop"}, {"correct": None, "reason": "empty"}]
    table = ledger({"correct": True}, *rows, {"correct": None, "reason": "error"})
    np.testing.assert_array_equal(pass_rates(table), [1 / 8] * 9)


def rates_table():
    rows = []
    for prompt, right in enumerate([0, 1, 5, 9, 10]):
        for sample in range(10):
            correct = sample < right
            reason = None if correct else "wrong_answer"
            rows.append({"p": prompt, "correct": correct, "reason": reason})
    return ledger(*rows)


def test_prompts_that_are_too_easy_or_too_hard_go():

    def rule(table):
        return off_difficulty(table, pass_rates(table), keep=(0.2, 0.9))

    table = rates_table()
    reasons = rule(table).to_pylist()
    expected = ["too_hard"] + [None] * 14 + ["too_easy"] * 10
    assert [reasons[at] for at in range(50) if table["correct"][at].as_py()] == expected
    assert not any(reasons[at] for at in range(50) if table["reason"][at].as_py())
    assert is_independent_of_order(rule, table)


def test_bounds_are_inclusive_and_without_references_nothing_goes():
    table = ledger({"correct": True}, {"correct": False}, {"p": 2})
    assert off_difficulty(table, pass_rates(table), keep=(0.5, 0.5)).to_pylist() == [
        None,
        None,
        None,
    ]


def best(table, per_prompt=1, by=("correct", "score", "shorter"), seed=7, **more):
    reasons = not_best(table, per_prompt=per_prompt, by=by, seed=seed, **more)
    return [at for at, reason in enumerate(reasons.to_pylist()) if reason is None]


def test_the_best_is_right_then_scores_high_then_is_short():
    table = ledger(
        {"correct": False, "score": 9.0, "completion_tokens": 1},
        {"correct": True, "score": None, "completion_tokens": 1},
        {"correct": True, "score": 2.0, "completion_tokens": 90},
        {"correct": True, "score": 3.0, "completion_tokens": 80},
        {"correct": True, "score": 3.0, "completion_tokens": 70},
        {"correct": True, "score": 3.0, "completion_tokens": None},
        {"correct": None, "score": 9.0, "completion_tokens": 1},
    )
    ranked = [4, 3, 5, 2, 1, 6, 0]
    for count in range(1, 8):
        assert best(table, count) == sorted(ranked[:count])
    assert best(table, by=["shorter", "score"]) == [6]  # 9 points and one token, as 0 has; by lot
    assert best(table, by=["score"], seed=1) in ([0], [6])


def test_equals_are_drawn_by_lot_and_the_seed_decides():
    table = ledger(*({"p": prompt} for prompt in range(200) for _ in range(4)))
    kept = best(table, seed=1)
    assert [at // 4 for at in kept] == list(range(200))
    picks = np.bincount([at % 4 for at in kept], minlength=4)
    assert picks.min() > 25  # 50 are expected of each, 6 is the standard deviation
    assert best(table, seed=1) == kept != best(table, seed=2)

    def rule(table):
        return not_best(table, per_prompt=2, by=["score"], seed=1)

    assert is_independent_of_order(rule, table)


def test_best_of_each_teacher_or_of_all():
    table = ledger(
        {"t": "a", "score": 1.0},
        {"t": "a", "score": 2.0},
        {"t": "b", "score": 3.0},
        {"t": "b", "score": 4.0},
    )
    assert best(table) == [1, 3]
    assert best(table, across="teachers") == [3]


def test_what_is_out_already_is_not_the_best():
    table = ledger({"score": 9.0, "reason": "language"}, {"score": 1.0}, {"score": 0.0})
    reasons = not_best(table, per_prompt=1, by=["score"], seed=0)
    assert reasons.to_pylist() == [None, None, "lower_score"]


def test_rules_take_a_table_without_rows():
    empty = ledger({}).slice(0, 0)
    assert minority(ballot_of(empty), min_agreement=0.5).to_pylist() == []
    assert off_difficulty(empty, pass_rates(empty), keep=(0, 1)).to_pylist() == []
    assert not_best(empty, per_prompt=1, by=["correct"], seed=0).to_pylist() == []


def test_reasons_are_strings_and_nulls():
    given = reasons_of(3, {"a": np.array([0]), "b": np.array([False, False, True])})
    assert given.equals(pa.array(["a", None, "b"]))
