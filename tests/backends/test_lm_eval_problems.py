import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from documents import blocks
from doubles.task_files import CHOICE, SUMS, needs_lm_eval, write_task_files

from engine.backends.lm_eval_problems import file_problems


@pytest.fixture
def problems(tmp_path):
    """What is wrong with a text in the place of sums.yaml."""
    files = write_task_files(tmp_path / "tasks")

    def problems_of(text):
        (tmp_path / "tasks/sums.yaml").write_text(text)
        return list(file_problems(files[:1]))

    return problems_of


def test_good_files_have_no_problem(tmp_path):
    assert list(file_problems(write_task_files(tmp_path / "tasks"))) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (SUMS.replace("generate_until", "generate"), "output_type: there is no generate"),
        (CHOICE.replace("doc_to_choice", "# "), "doc_to_choice is missing"),
        (SUMS.replace("test_split: test", "test_split: dev"), "the data have no split dev"),
        (SUMS.replace("test_split: test\n", ""), "test_split is missing"),
        (SUMS.replace("{{question}}", "{{question"), "doc_to_text: it is no Jinja template"),
        (SUMS.replace("{{question}}", "{{query}}"), "has no column query; it has answer, question"),
        (SUMS.replace("data/sums", "data/none"), "there is no "),
        (SUMS + "unsafe_code: true\n", "unsafe_code"),
        (SUMS + "doc_to_image: picture\n", "doc_to_image"),
    ],
)
def test_what_would_fail_is_named_with_file_and_task(problems, text, problem):
    (found,) = problems(text)
    assert problem in found
    assert found.startswith("evaluate.lm_eval.0: ")
    assert "tasks/sums.yaml: task " in found


def test_columns_of_parquet_are_looked_at_too(problems, tmp_path):
    table = pa.table({"question": ["?"], "answer": ["1"]})
    pq.write_table(table, tmp_path / "tasks/data/sums.parquet")
    text = SUMS.replace("json", "parquet").replace("sums.parquetl", "sums.parquet")
    assert problems(text) == []
    (found,) = problems(text.replace("{{answer}}", "{{gold}}"))
    assert "doc_to_target: " in found
    assert "has no column gold" in found


def test_an_empty_file_of_data_is_named(problems, tmp_path):
    (tmp_path / "tasks/data/sums.jsonl").write_text("")
    (found,) = problems(SUMS)
    assert "sums.jsonl is empty" in found


def test_a_task_in_two_files_is_named(tmp_path):
    files = write_task_files(tmp_path / "tasks")
    (found,) = file_problems([*files, str(tmp_path / "tasks/choice.yaml")])
    assert "task choice is in" in found
    assert "group.yaml too" in found


def test_a_file_that_cannot_be_read_is_named_once(tmp_path):
    (tmp_path / "a.yaml").write_text("group: g\ntask: [absent]\n")
    (found,) = file_problems([str(tmp_path / "a.yaml")])
    assert found.startswith(f"evaluate.lm_eval.0: {tmp_path}/a.yaml: group g names absent")
    (tmp_path / "a.yaml").write_text("group: g\n")
    (found,) = file_problems([str(tmp_path / "a.yaml")])
    assert "no members" in found


@needs_lm_eval
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (SUMS + "doc_to_txt: a\n", "no field doc_to_txt; did you mean doc_to_text?"),
        (SUMS.replace("metric: exact", "metric: exakt"), "did you mean exact_match?"),
        (SUMS.replace("take_first", "take_frist"), "did you mean take_first?"),
        (
            SUMS.replace("{metric: exact_match,", "{metric: exact_match, hf_evaluate: true,"),
            "would be fetched from a hub",
        ),
    ],
)
def test_names_that_the_harness_does_not_know_are_found_with_the_nearest(problems, text, problem):
    (found,) = problems(text)
    assert problem in found


def test_the_task_file_of_the_readme_is_a_good_one(tmp_path):
    (shown,) = [block for block in blocks("text") if "dataset_path:" in block.text]
    (tmp_path / "shown.yaml").write_text(shown.text)
    (tmp_path / "boolq.jsonl").write_text('{"passage": "p", "question": "q", "label": 1}\n')
    assert list(file_problems([str(tmp_path / "shown.yaml")])) == []
