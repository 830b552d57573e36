from engine.stages.report.harness_table import harness_tables


def a_score(task, value, stderr=0.1, metric="exact_match", name="none"):
    return {"task": task, "metric": metric, "filter": name, "value": value, "stderr": stderr}


def test_a_job_without_task_files_has_no_table():
    assert harness_tables({}) == []
    assert harness_tables({"lm_eval": None}) == []


def test_a_row_per_figure_a_column_per_model_and_reasons_below():
    found = {
        "version": "0.4.13",
        "tasks": {"sums": {"kind": "generate_until", "n": 40}, "all": {"kind": "group"}},
        "scores": {
            "student": [
                a_score("sums", 0.25, name="last_number"),
                a_score("pick", 0.5, metric="acc"),
                a_score("all", 0.375, None),
            ],
            "teacher": [a_score("sums", 0.75, name="last_number")],
        },
        "unknown": {"teacher": {"pick": "an API says no", "all": "an API says no"}},
        "chat_template": {"student": False, "teacher": True},
        "cost_usd": 0.5,
    }
    (table,) = harness_tables({"lm_eval": found})
    assert list(table.header) == ["task", "metric", "rows", "teacher", "student"]
    assert table.rows == [
        ["sums", "exact match, last number", "40", "0.750 ± 0.100", "0.250 ± 0.100"],
        ["pick", "acc", "–", "–", "0.500 ± 0.100"],
        ["all", "exact match", "–", "–", "0.375"],
    ]
    lines = table.note.splitlines()
    assert lines[0].startswith("lm-eval 0.4.13, offline")
    assert "teacher, pick, all: not known (an API says no)." in lines
    assert "Asked without a chat template, since it has none: student." in lines
    assert "Asking the teacher's API took 0.5 USD." in lines


def test_a_teacher_that_nobody_asked_has_a_column_of_dashes():
    found = {
        "version": "0.4.13",
        "tasks": {},
        "scores": {"student": [a_score("sums", 1.0)]},
        "unknown": {"teacher": {"sums": "nobody serves it"}},
    }
    (table,) = harness_tables({"lm_eval": found})
    assert table.rows == [["sums", "exact match", "–", "–", "1.000 ± 0.100"]]
