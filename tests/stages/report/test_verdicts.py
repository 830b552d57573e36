"""Comparisons as sentences and tables."""

import pytest

from engine.stages.report.verdicts import answered, comparisons, gains, verdicts

FOUND = {
    "metric": "exact_match",
    "test": "McNemar mid-p",
    "difference": 0.868,
    "ci95": [0.84, 0.896],
    "p": 1e-12,
    "p_holm": 2e-12,
    "wins": 435,
    "losses": 1,
    "ties": 64,
    "n": 500,
    "clusters": 500,
    "mde": 0.0312,
}


def report(**changes):
    return {"comparisons": {"baseline": [FOUND | changes]}}


def test_a_gain_is_told_with_interval_p_and_the_smallest_difference():
    assert verdicts(report()) == [
        "Against the untrained baseline: +0.868 exact match (95 % +0.840 to +0.896, p < 0.001)."
        " The smallest difference that these 500 prompts show in four of five cases is 0.031."
    ]


def test_no_difference_is_said_in_words():
    (told,) = verdicts(report(difference=-0.01, ci95=[-0.03, 0.01], p=0.2, p_holm=0.412))
    assert told.startswith(
        "Against the untrained baseline no difference is shown: -0.010 exact match (95 % -0.030 to"
        " +0.010, p = 0.412)."
    )


def test_few_groups_are_said():
    (told,) = verdicts(report(clusters=40, mde=None))
    assert told.endswith("these 500 prompts in 40 groups could show is not known.")


def test_what_has_no_difference_is_no_sentence():
    assert verdicts(report(difference=None)) == []
    assert verdicts({}) == []


def test_every_metric_is_a_row():
    other = FOUND | {"metric": "rouge_l", "p_holm": 0.03125, "test": "paired bootstrap"}
    (table,) = comparisons({"comparisons": {"teacher": [FOUND, other]}})
    assert table.title == "Student against teacher"
    assert table.rows[1] == [
        "rouge l",
        "+0.868",
        "[+0.840, +0.896]",
        "< 0.001",
        "0.031",
        "435",
        "1",
        "64",
        "0.031",
    ]
    assert "McNemar mid-p and paired bootstrap, two-sided" in table.note


@pytest.mark.parametrize("brief", [False, True])
def test_rows_have_as_many_cells_as_the_header(brief):
    (table,) = comparisons(report(), brief=brief)
    assert all(len(row) == len(table.header) for row in table.rows)


def test_a_ratio_that_is_not_known_says_why():
    ratios = {
        "memory": {"value": 8.25, "how": "weights", "why_unknown": None},
        "latency": {"value": None, "how": None, "why_unknown": "no load test"},
    }
    table = gains({"ratios": ratios})
    assert table.rows == [
        ["memory", "8.25 times smaller", "weights"],
        ["latency", "not known", "no load test"],
    ]


RIGHT = {"right": 8, "wrong": 2, "no_answer": 0, "ambiguous": 0, "unverified": 0, "unchecked": 0}


def test_answers_are_counted_by_what_they_are_and_what_nobody_gave_is_left_out():
    student = RIGHT | {"wrong": 0, "unverified": 2}
    (table,) = answered({"verdicts": {"teacher": RIGHT, "student": student}})
    assert table.header == ["", "right", "wrong", "unverified"]
    assert table.rows == [["teacher", "8", "2", "0"], ["student", "8", "0", "2"]]
    assert "only algebra could tell" in table.note
    assert answered({}) == answered({"verdicts": {}}) == []
