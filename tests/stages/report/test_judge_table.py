"""What the judge says, as sentences and tables."""

import io
import json

import pytest
from rich.console import Console

from engine.job.spec import ReportSpec
from engine.run.context import Context
from engine.run.facts import EvaluateInfo
from engine.stages import report as report_stage
from engine.stages.report.contract import Report
from engine.stages.report.curation_tables import curation
from engine.stages.report.judge_table import judge_sentences, judge_tables

PAIRS = {
    "win_rate": 0.44,
    "ci95": [0.381, 0.5],
    "p": 0.031,
    "mde": 0.08,
    "wins": 80,
    "losses": 110,
    "ties": 60,
    "flips": 21,
    "same": 4,
    "unjudged": 3,
    "n": 250,
    "clusters": 250,
    "longer_won": 0.61,
    "length_correlation": 0.18,
}
GRADES = {"mean": 3.8, "ci95": [3.6, 4.0], "n": 250, "ungraded": 3, "length_correlation": 0.2}
AHEAD = {"student_ahead": -0.31, "student_ahead_ci95": [-0.5, -0.1], "student_ahead_p": 0.004}
JUDGE = {
    "name": "gpt",
    "kind": "openai",
    "model": "gpt-4o",
    "rubric_sha256": "ab" * 32,
    "is_teacher": False,
    "replies": 1000,
    "unreadable": {"ok": 5, "truncated": 2},
    "named": 400,
    "first_share": 0.525,
    "first_p": 0.21,
    "flip_rate": 0.085,
    "pairs": {"teacher": PAIRS, "baseline": PAIRS | {"win_rate": 0.5, "p": 0.8, "ci95": None}},
    "scale": [1, 5],
    "grades": {"teacher": GRADES | AHEAD, "student": GRADES},
    "tokens_in": 412_000,
    "tokens_out": 90_100,
    "cost_usd": 1.931,
}


def test_a_preference_is_told_with_interval_and_p():
    first, second = judge_sentences({"judge": JUDGE})
    assert first == (
        "The judge (gpt) prefers the teacher's answers: the student's are better in 44.0% of 250"
        " pairs, ties half (95 % 38.1% to 50.0%, p = 0.031)."
    )
    assert second == (
        "The judge (gpt) shows no preference between the student's answers and the baseline's:"
        " 50.0% of 250 pairs, ties half."
    )


def test_a_student_that_is_preferred_is_told():
    better = PAIRS | {"win_rate": 0.6, "ci95": [0.54, 0.66], "p": 0.0004}
    (told,) = judge_sentences({"judge": JUDGE | {"pairs": {"baseline": better}}})
    assert told == (
        "The judge (gpt) prefers the student's answers to the baseline's: they are better in 60.0%"
        " of 250 pairs, ties half (95 % 54.0% to 66.0%, p < 0.001)."
    )


def test_a_judge_without_votes_is_told():
    nothing = PAIRS | {"win_rate": None, "ci95": None, "p": None, "n": 0}
    (told,) = judge_sentences({"judge": JUDGE | {"pairs": {"teacher": nothing}}})
    assert told.startswith("The judge (gpt) gave no verdict")


def test_a_judge_that_goes_by_the_place_prefers_nobody():
    flipped = PAIRS | {"win_rate": 0.5, "p": 1.0, "flips": 240}
    (told,) = judge_sentences({"judge": JUDGE | {"pairs": {"teacher": flipped}}})
    assert told == (
        "The judge (gpt) cannot tell the student's answers from the teacher's: the winner of 240 of"
        " 250 pairs changed with the order."
    )


@pytest.mark.parametrize("report", [{}, {"judge": None}])
def test_without_a_judge_nothing_is_told(report):
    assert (judge_sentences(report), judge_tables(report)) == ([], [])


def test_pairs_grades_and_the_worth_of_the_judge_are_tables():
    pairs, grades, trust = judge_tables({"judge": JUDGE})
    assert pairs.rows[0] == [
        "teacher",
        "44.0%",
        "[38.1%, 50.0%]",
        "0.031",
        "80/110/60",
        "21",
        "4",
        "3",
        "8.0%",
    ]
    assert grades.rows[0][1:] == ["3.800", "[3.600, 4.000]", "250", "3", "-0.310", "0.004"]
    assert grades.rows[1][5] == "–"
    shown = dict(trust.rows)
    assert shown["replies without a verdict"] == "7 of 1,000 (ok 5, truncated 2)"
    assert shown["votes for the answer that stood first"].startswith("52.5% of 400 that name")
    assert shown["pairs whose winner changed with the order"] == "8.5%"
    assert shown["is the teacher"] == "no"
    assert shown["asking it took"] == "412,000 tokens in, 90,100 out, $1.9310"
    for table in (pairs, grades, trust):
        assert all(len(row) == len(table.header) for row in table.rows)


def test_a_terminal_of_80_columns_has_room_for_it():
    console = Console(width=80, file=io.StringIO())
    console.print(*report_stage.comparison_tables({"judge": JUDGE}))
    shown = console.file.getvalue()
    assert "80/110/60" in shown
    assert "[38.1%, 50.0%]" in shown


@pytest.fixture
def out(evaluated, finish, tmp_path):
    """The report of a run with a judge that goes by the place."""
    said = evaluated["evaluate"].manifest.info.model_dump(exclude_unset=True)
    exposed = "the judge named the answer that stood first in 100% of 400 votes"
    tables = {}
    evaluated["evaluate"] = finish(
        "evaluate",
        35,
        said | {"judge": JUDGE, "warnings": [exposed]},
        tables=tables,
    )
    folder = tmp_path / "report"
    folder.mkdir()
    report_stage.run(ReportSpec(html=False), evaluated, folder, Context("j", "math", 0))
    return folder


def test_json_and_markdown_have_it(out):
    """HTML has the tables and sentences of Markdown (test_report.py)."""
    report = json.loads((out / "report.json").read_text())
    Report.model_validate(report)
    assert report["judge"]["pairs"]["teacher"]["win_rate"] == 0.44
    page = (out / "report.md").read_text()
    for words in (
        "- The judge (gpt) prefers the teacher's answers",
        "## Judge: student against",
        "## Judge: grades",
        "## Judge: what its word is worth",
        "the judge named the answer that stood first in 100% of 400 votes",
    ):
        assert words in page


def test_what_evaluate_publishes_is_what_the_report_reads():
    info = EvaluateInfo.model_validate(
        {
            "quality": {
                "metric": "f1",
                "n": 1,
                "teacher": None,
                "baseline": None,
                "student": None,
                "retention": None,
                "ci95": {},
            },
            "metrics": {},
            "judge": JUDGE,
        }
    )
    assert judge_tables(info.model_dump(mode="json"))[0].rows[0][0] == "teacher"


def test_what_the_judge_of_curate_took_stands_under_the_funnel():
    judge = {"name": "j", "replies": 3, "tokens_in": 1200, "tokens_out": 20, "cost_usd": 0.001}
    curate = {"funnel": [["completions", 3]], "rows_in": 3, "rows_kept": 1, "dropped": {}}
    (table,) = curation({"curate": curate | {"judge": judge}})
    assert "3 replies of the judge j took 1,200 tokens in, 20 out, $0.0010." in table.note
    (without,) = curation({"curate": curate | {"judge": None}})
    assert "judge" not in without.note
