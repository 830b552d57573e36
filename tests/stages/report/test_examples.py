"""Answers side by side, and what curate kept and dropped."""

import json

import pytest
from doubles.curated import CTX, ask, finish, reply

from engine.job.spec import CurateSpec
from engine.rows.records import Answer, Prompt
from engine.run.manifests import finished, publish
from engine.stages import curate
from engine.stages.report.curation_tables import judged_examples
from engine.stages.report.examples import (
    MOST_CHARACTERS,
    clipped,
    examples_of,
    shown_after,
    side_by_side,
)
from engine.stages.report.table import markdown_table

MAIL = "ivo@posta.example.org"
STUDENT = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0, 0.55, 0.56, 0.57, 0.58, 0.59, 0.5]
BASELINE = [0.0] * 11 + [0.55, 0.5, 0.1, 0.2, 0.59, 0.9]


def prompt(number):
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": f"q{number}"}]
    return Prompt(number, f"{number:064x}", "a", messages, "qa", "a", "validation", "gold")


def answer(number, model, score):
    scores = json.dumps({"f1": score, "exact_match": 0.0})
    return Answer(number, model, "ok", f"{model} {number}", "gold", scores)


def tables(scores):
    rows = [
        answer(number, model, value)
        for model, values in scores.items()
        for number, value in enumerate(values)
    ]
    prompts = [prompt(number) for number in range(len(next(iter(scores.values()))))]
    return side_by_side("f1", examples_of("f1", prompts, rows), clipped)


def test_the_best_the_worst_and_where_the_models_differ_are_shown_once_each():
    best, worst, apart = tables({"student": STUDENT, "baseline": BASELINE})
    assert best.header == ["prompt", "reference", "baseline", "student"]
    assert [row[0] for row in best.rows] == ["q0", "q1", "q2", "q3", "q4"]
    assert [row[0] for row in worst.rows] == ["q10", "q9", "q8", "q7", "q6"]
    assert apart.title == "Where student and baseline differ most"
    assert [row[0] for row in apart.rows] == ["q5", "q13", "q16", "q14", "q12"]
    assert best.rows[0] == ["q0", "gold", "[0.000] baseline 0", "[1.000] student 0"]


def test_without_a_baseline_student_and_teacher_are_told_apart():
    titles = [table.title for table in tables({"student": STUDENT, "teacher": BASELINE})]
    assert titles[2] == "Where student and teacher differ most"


def test_few_prompts_fill_fewer_tables():
    assert [len(table.rows) for table in tables({"student": [0.5] * 7})] == [5, 2]
    assert side_by_side("f1", examples_of("f1", [prompt(1)], []), clipped) == []


def test_a_score_of_nothing_is_a_dash():
    (table,) = tables({"student": [None]})
    assert table.rows == [["q0", "gold", "[–] student 0"]]


def test_texts_of_others_stay_texts():
    row = Answer(1, "student", "ok", "a|b\n<script>&" + "x" * 600, "gold", '{"f1": 1.0}')
    (table,) = side_by_side("f1", examples_of("f1", [prompt(1)], [row]), clipped)
    (line,) = [line for line in markdown_table(table) if "q1" in line]
    assert r"a\|b<br>&lt;script>&amp;xxx" in line
    assert "(113 characters more)" in line
    assert len(line) < MOST_CHARACTERS + 100


def judged(tmp_path, **spec):
    """The table of answers that curate kept and dropped."""
    answers = [reply(number, text=f"It is {number + 1}, says {MAIL}") for number in range(5)]
    answers += [reply(number, text="9") for number in range(5, 9)]
    stages = finish(tmp_path, [ask(number) for number in range(9)], [answers])
    out = tmp_path / "curate"
    out.mkdir()
    block = CurateSpec(**spec)
    counts = curate.run(block, stages, out, CTX)
    publish(out, "curate", {"blocks": {"curate": block.model_dump()}}, counts, 0.0)
    stage = finished(out)
    (table,) = judged_examples(stage, stages["generate"], stages["prompts"], shown_after(stage))
    return table


def test_three_kept_and_three_dropped_answers_of_each_reason(tmp_path):
    rows = judged(tmp_path).rows
    assert [row[0] for row in rows] == ["kept"] * 3 + ["wrong answer"] * 3
    assert rows[0] == ["kept", "0+1?", "1", f"It is 1, says {MAIL}"]
    assert [row[3] for row in rows[3:]] == ["9"] * 3


@pytest.mark.parametrize("action", ["drop", "redact", "flag"])
def test_personal_data_that_curate_looked_for_is_not_shown(tmp_path, action):
    said = json.dumps(judged(tmp_path, pii={"action": action}).rows)
    assert "says [EMAIL]" in said
    assert MAIL not in said
