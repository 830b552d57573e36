"""Grades as judges write them, well and badly; the scale is 1 to 5."""

import pytest

from engine.rows.judging.grades import read_grade

GRADES = {
    '{"score": 4}': 4,
    '{"score": "4"}': 4,
    '{"score": "four"}': 4,
    '{"score": 3.5}': 3.5,
    'Fine.\n```json\n{\n  "accuracy": 2,\n  "score": 5\n}\n```': 5,
    '{"score": 2}\nNo, wait.\n{"score": 3}': 3,
    "<thinking>score: 1</thinking>score: 2": 2,
    "Score: 4": 4,
    "score: 3,5": 3.5,
    "Score: ٤": 4,
    "Score (1-5): 4": 4,
    "**Rating:** 4/5": 4,
    "The overall score is 4.": 4,
    "Overall: 3": 3,
    "[[4]]": 4,
    "\\boxed{3}": 3,
    "<score>2</score>": 2,
    "4.": 4,
    "4 stars": 4,
    "I would give it 4 out of 5.": 4,
    "3/5 because it is short": 3,
    "Score — 3": 3,
    "Score 4": 4,
    "My score for this answer would be 4": 4,
    "The score is 2 out of 5.": 2,
}
NONE = [
    "",
    '{"score": 8}',
    '{"score": 45}',
    "score: 0",
    "Score: -1",
    "8/10",
    "Score: 4/10",
    "Score: 1-5",
    "Score: 80%",
    "Grade: B",
    "from 1 (worst) to 5 (best):\n{'score': N}",
    '{"score": 1} {"score": 2} {"score": 3}',
    "The text names 3 of the points.",
]


@pytest.mark.parametrize("reply", GRADES)
def test_a_grade_is_read_however_it_is_written(reply):
    assert read_grade(reply, (1, 5)) == GRADES[reply]


@pytest.mark.parametrize("reply", NONE)
def test_a_number_off_the_scale_or_none_is_no_grade(reply):
    assert read_grade(reply, (1, 5)) is None


def test_a_scale_may_start_below_zero():
    assert read_grade('{"score": -2}', (-3, 3)) == -2


def test_a_reply_that_was_cut_counts_where_its_grade_is_written_as_one():
    assert read_grade('{"score": 4}\nIt is', (1, 5), is_cut=True) == 4
    assert read_grade("I saw 4 out of 5", (1, 5), is_cut=True) is None
