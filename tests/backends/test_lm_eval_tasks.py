import pytest
from doubles.task_files import write_task_files

from engine.backends.lm_eval_data import data_files, files_read
from engine.backends.lm_eval_tasks import Function, TaskFileError, functions_in, read_suite


@pytest.fixture
def write(tmp_path):
    def write_file(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write_file


def test_a_file_wins_over_what_it_includes(write):
    write("base.yaml", "dataset_path: json\noutput_type: multiple_choice\n")
    path = write("own.yaml", "include: base.yaml\ntask: own\noutput_type: generate_until\n")
    suite = read_suite(path)
    (task,) = suite.tasks
    assert task.settings == {
        "task": "own",
        "dataset_path": "json",
        "output_type": "generate_until",
    }
    assert [file.name for file in suite.files] == ["own.yaml", "base.yaml"]
    assert suite.group is None


def test_a_group_has_its_members_those_of_its_groups_and_of_its_tags(write):
    write("one.yaml", "task: one\nnum_fewshot: 1\n")
    write("deep/two.yaml", "task: two\ntag: pairs\n")
    write("deep/three.yaml", "task: three\ntag: [pairs]\n")
    write("inner.yaml", "group: inner\ntask: [pairs]\n")
    path = write(
        "outer.yaml",
        "group: outer\nnum_fewshot: 5\ntask:\n  - one\n  - inner\n"
        "  - {task: here, dataset_path: json, num_fewshot: 2}\n",
    )
    suite = read_suite(path)
    assert suite.group == "outer"
    shots = {task.name: task.settings.get("num_fewshot") for task in suite.tasks}
    assert shots == {"one": 5, "three": 5, "two": 5, "outer::here": 2}
    assert {file.name for file in suite.files} == {
        "outer.yaml",
        "inner.yaml",
        "one.yaml",
        "two.yaml",
        "three.yaml",
    }


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("task: [a", "it cannot be read"),
        ("- a\n- b\n", "holds no fields"),
        ("dataset_path: json\n", "names neither a task nor a group"),
        ("include: none.yaml\ntask: a\n", "include: none.yaml: there is no such file"),
        ("include: task.yaml\ntask: a\n", "includes itself"),
        ("group: g\ntask: [absent]\n", "group g names absent, which no task file"),
        ("group: g\ntask: [g]\n", "group g is a member of itself"),
        ("group: g\ntask: [{name: a}]\n", "has a member {'name': 'a'}"),
    ],
)
def test_a_file_that_the_harness_could_not_read_is_named_with_the_reason(write, text, problem):
    with pytest.raises(TaskFileError, match=problem.replace("{", r"\{")):
        read_suite(write("task.yaml", text))


def test_two_groups_of_one_name_in_a_folder_are_named(write):
    write("a.yaml", "group: g\ntask: []\n")
    with pytest.raises(TaskFileError, match=r"group g is also that of .*a\.yaml"):
        read_suite(write("b.yaml", "group: g\ntask: []\n"))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(TaskFileError, match="no such file"):
        read_suite(tmp_path / "none.yaml")


def test_python_is_known_by_its_name_and_never_imported(write):
    module = write("own.py", "raise SystemExit('imported')\n")
    path = write("task.yaml", "task: a\nmetric_list: [{metric: !function own.score}]\n")
    (task,) = read_suite(path).tasks
    assert list(functions_in(task.settings)) == [Function("own.score", path.parent)]
    assert Function("own.score", path.parent).module == module
    assert Function("numpy.mean", path.parent).module is None


def test_every_file_that_decides_a_result_is_known(write, tmp_path):
    files = write_task_files(tmp_path / "tasks")
    write("tasks/own.py", "")
    with (tmp_path / "tasks/sums.yaml").open("a") as task:
        task.write("process_docs: !function own.clean\n")
    found = [name.removeprefix(f"{tmp_path}/tasks/") for name in files_read(files)]
    assert found == [
        "sums.yaml",
        "own.py",
        "data/sums.jsonl",
        "group.yaml",
        "choice.yaml",
        "other.yaml",
        "data/choice.jsonl",
    ]
    assert files_read([str(tmp_path / "none.yaml")]) == [str(tmp_path / "none.yaml")]


def test_data_are_files_of_this_machine(tmp_path):
    for name in ("a.parquet", "b.parquet", "more/c.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")

    def names(**settings):
        return {
            split: [path.name for path in files]
            for split, files in data_files(settings, tmp_path).items()
        }

    files = {"test": "*.parquet", "train": ["a.parquet"]}
    assert names(dataset_path="parquet", dataset_kwargs={"data_files": files}) == {
        "test": ["a.parquet", "b.parquet"],
        "train": ["a.parquet"],
    }
    inside = {"data_files": "c.jsonl", "data_dir": "more"}
    assert names(dataset_path="json", dataset_kwargs=inside) == {"train": ["c.jsonl"]}
    assert names(dataset_path="more") == {None: ["c.jsonl"]}


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"dataset_path": "gsm8k"}, "dataset_path: gsm8k is neither a folder here"),
        ({}, "dataset_path is missing"),
        ({"dataset_path": "json"}, "names no file"),
        (
            {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "none.jsonl"}}},
            "there is no .*none.jsonl",
        ),
        (
            {"dataset_path": "json", "dataset_kwargs": {"data_files": "https://h/a.jsonl"}},
            "https://h/a.jsonl is an address",
        ),
        ({"class": "x"}, "made by Python"),
        ({"custom_dataset": "x"}, "made by Python"),
    ],
)
def test_data_that_are_not_here_are_refused(tmp_path, settings, problem):
    with pytest.raises(TaskFileError, match=problem):
        data_files(settings, tmp_path)
