import json
import os

import pytest
from conftest import REPOSITORY

from engine import pipeline
from engine.errors import SpecError
from engine.job.jobfile import (
    ServeOnly,
    dump_job,
    load_job,
    load_run,
    load_serve,
    with_absolute_paths,
)
from engine.job.spec import JobSpec
from engine.job.yamlfile import dump_yaml, read_document

JOB = """\
version: 1
name: small
task: math
prompts:
  train: data/train.jsonl
  validation: [data/a.jsonl, /abs/b.jsonl]
generate:
  teachers:
    - name: t
      model: org/teacher
      replicas: 1
    - {name: u, model: ./teacher}
train:
  student: student
  learning_rate: 1e-5
"""


@pytest.fixture
def job_file(tmp_path):
    (tmp_path / "student").mkdir()
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    return path


def refused(path, sets=()):
    with pytest.raises(SpecError) as caught:
        load_job(path, sets)
    return str(caught.value).replace(f"{path.parent}{os.sep}", "")


def test_a_number_with_an_exponent_is_a_float(job_file):
    assert load_job(job_file).train.learning_rate == 1e-5


def test_relative_paths_start_at_the_job_file_and_hub_names_stay(job_file):
    job = load_job(job_file)
    here = job_file.parent
    assert job.prompts.train == f"{here}/data/train.jsonl"
    assert job.prompts.validation == [f"{here}/data/a.jsonl", "/abs/b.jsonl"]
    assert [teacher.model for teacher in job.generate.teachers] == [
        "org/teacher",
        f"{here}/teacher",
    ]
    assert job.train.student == f"{here}/student"


def test_paths_given_by_set_start_at_the_current_directory(job_file, tmp_path, monkeypatch):
    (tmp_path / "cwd" / "models" / "s").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "cwd")
    sets = [
        "prompts.train=x.jsonl",
        "train.student=models/s",
        "train.tokenizer=org/tok",
        "generate.teachers.0.model=../t",
    ]
    job = load_job(job_file, sets)
    assert job.prompts.train == f"{tmp_path}/cwd/x.jsonl"
    assert (job.train.student, job.train.tokenizer) == (f"{tmp_path}/cwd/models/s", "org/tok")
    assert [teacher.model for teacher in job.generate.teachers] == [
        f"{tmp_path}/t",
        f"{tmp_path}/teacher",
    ]


def test_the_name_of_an_api_model_is_never_a_path(job_file, tmp_path):
    (tmp_path / "gpt-4").mkdir()
    job = load_job(
        job_file, ["generate.teachers=[{name: a, kind: openai, model: gpt-4, api_key_env: K}]"]
    )
    assert job.generate.teachers[0].model == "gpt-4"


def test_set_overrides_the_file_by_name_and_index_and_opens_missing_blocks(job_file):
    sets = [
        "train.epochs=1",
        "generate.teachers.0.replicas=2",
        "evaluate.metrics=[accuracy]",
        "name=other",
        "prompts.limit=",
    ]
    job = load_job(job_file, sets)
    assert (job.train.epochs, [teacher.replicas for teacher in job.generate.teachers]) == (
        1,
        [2, 1],
    )
    assert (job.evaluate.metrics, job.name, job.prompts.limit) == (["accuracy"], "other", None)


def test_the_last_set_wins(job_file):
    assert load_job(job_file, ["train={student: s, epochs: 4}", "train.epochs=5"]).train.epochs == 5


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "jobs").glob("*.yaml")), ids=lambda path: path.name
)
def test_an_identity_does_not_depend_on_how_a_number_was_written(path, tmp_path):
    """120 and 120.0 are equal in Python but not in a hash: every default of every block, read back
    from a run's job.yaml."""
    job = load_job(path)
    (tmp_path / "job.yaml").write_text(dump_job(job))
    again = load_job(tmp_path / "job.yaml")
    for name in pipeline.NAMES:
        ours, theirs = (
            json.dumps(getattr(side, name).identity_fields(), default=str) for side in (job, again)
        )
        assert ours == theirs, name


def test_a_dumped_job_loads_to_the_same_job(job_file, tmp_path):
    sets = [
        "train.revision='12e45'",
        "prompts.system='yes: \"no\"\n # two lines'",
        "generate.teachers.1.engine_args={a: null}",
    ]
    job = load_job(job_file, sets)
    (tmp_path / "deeper").mkdir()
    dumped = tmp_path / "deeper" / "resolved.yaml"
    dumped.write_text(dump_job(job))
    assert load_job(dumped) == job


@pytest.mark.parametrize(
    "value",
    ["1e5", "on", "null", "0x1F", "012", "1.5", "", "~", "2020-01-01", "a: b", "- x", "é\n"],
)
def test_every_text_survives_dumping(value, tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(
        dump_yaml({"field": value, "list": [value, 1, 2.5e-7, None, False]}), encoding="utf-8"
    )
    assert read_document(path).data == {"field": value, "list": [value, 1, 2.5e-7, None, False]}


def test_all_problems_are_listed_in_the_order_of_the_file(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("""\
version: 1
name: x
task: maths
name: y
learning_rate: 1e-5
prompts: {train: [a, 3]}
generate:
  teachers:
    - name: t
      model: m
      kind: opena
  sampling: 3
train:
  lerning_rate: 1e-5
  epochs: 3.0
  gradient_checkpointing: 1
evaluate:
  metrics: 3
loadtest: {models: [studnt]}
""")
    task, kind = (
        "'nli', 'conversation', 'qa', 'math' or 'summarization'",
        "'vllm', 'openai', 'anthropic' or 'fake'",
    )
    student = "Folder or hub name of the student. Identity is its content or the revision."
    assert refused(path).splitlines() == [
        f'job.yaml:3: task: given "maths"; should be {task}; did you mean math?',
        "job.yaml:4: name: given twice, first at job.yaml:2; keep one",
        "job.yaml:5: learning_rate: unknown field; the fields here are version, name, task, seed,"
        " device, prompts, generate, curate,"
        " train, evaluate, serve, loadtest, report",
        "job.yaml:6: prompts.train.1: given 3; should be a valid string; put it in quotes",
        'job.yaml:11: generate.teachers.0.kind: given "opena"; should be'
        f" {kind}; did you mean openai?",
        "job.yaml:12: generate.sampling: given 3; should be a block with temperature, top_p,"
        " max_tokens, samples, stop_loops, reproducible",
        f"job.yaml:13: train.student: missing; give it: {student}",
        "job.yaml:14: train.lerning_rate: unknown field; did you mean learning_rate?",
        "job.yaml:15: train.epochs: given 3.0; should be a valid integer",
        "job.yaml:16: train.gradient_checkpointing: given 1; should be a valid boolean",
        "job.yaml:18: evaluate.metrics: given 3; should be 'auto' or a valid list",
        'job.yaml:19: loadtest.models.0: given "studnt"; should be'
        " 'student', 'teacher' or 'baseline'; did you mean student?",
    ]


def test_fields_that_contradict_each_other_are_reported_at_the_line_of_the_first(job_file):
    job_file.write_text(JOB + "  loss: forward_kl\n")
    assert refused(job_file).startswith(
        "job.yaml:16: train.loss=forward_kl learns from the teacher's distribution, but"
    )


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "train.lerning_rate=3",
            "--set train.lerning_rate=3: train.lerning_rate: unknown field; did you mean"
            " learning_rate?",
        ),
        (
            "train.zero_stage=4",
            "--set train.zero_stage=4: train.zero_stage: given 4; should be less than or equal to"
            " 3",
        ),
        (
            "curate.x.y=1",
            "--set curate.x.y=1: curate.x: unknown field; the fields here are min_tokens,"
            " max_tokens,",
        ),
        (
            "generate.sampling={temperature: 3}",
            "--set generate.sampling={temperature: 3}: generate.sampling.temperature: given 3;",
        ),
        ("0.x=1", "--set 0.x=1: 0: unknown field; the fields here are version, name"),
        ("train.epochs", "--set train.epochs: write field=value, such as --set train.epochs=1"),
        (
            "train..epochs=1",
            "--set train..epochs=1: train.: unknown field; the fields here are student,",
        ),
        (
            "generate.teachers.2.name=u",
            "--set generate.teachers.2.name=u: generate.teachers.2.name is no field; list items go"
            " by number",
        ),
        (
            "generate.teachers.name=2",
            "--set generate.teachers.name=2: generate.teachers.name is no field; list items go by"
            " number",
        ),
        ("name.x=3", "--set name.x=3: name.x is no field"),
        ("train.student=[", "--set train.student=[: not valid YAML"),
    ],
)
def test_a_problem_of_a_set_names_the_set(job_file, setting, message):
    assert refused(job_file, [setting]).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "job.yaml:1: the file is empty"),
        (b"- a\n", 'job.yaml:1: given ["a"] at the top level'),
        (b"name: [a\ntask: b\n", "job.yaml:2: not valid YAML"),
        (b"name: a\n\ttask: b\n", "job.yaml:2: not valid YAML"),
        (
            b"a: 1\nname: !!python/object:os.system x\n",
            "job.yaml:2: not valid YAML: could not determine a constructor",
        ),
        (b"name: a\n---\nname: b\n", "job.yaml:2: not valid YAML"),
        (b"? [a]\n: b\n", "job.yaml:1: a field's name must be plain text"),
        (b"name: \xff\n", "job.yaml: not UTF-8 at byte 6"),
        (b"name: a\ntask: 2026-13-01\n", "job.yaml:1: not valid YAML: month must be in 1..12"),
        (b"name: \x01\n", "job.yaml:1: not valid YAML"),
    ],
)
def test_a_file_that_is_no_job_is_refused_with_its_line(tmp_path, text, message):
    path = tmp_path / "job.yaml"
    path.write_bytes(text)
    assert refused(path).startswith(message)


def test_a_file_that_cannot_be_read_is_refused(job_file):
    assert (
        refused(job_file.with_name("jobs.yaml"))
        == "jobs.yaml: cannot be read: No such file or directory"
    )
    assert "cannot be read" in refused(job_file.parent / "student")


@pytest.mark.parametrize("source", ["a file", "Python"])
def test_relative_models_and_files_become_absolute_wherever_a_job_comes_from(
    source, tmp_path, monkeypatch
):
    """Workers have another current directory than the driver."""
    for name in ("big", "live", "small"):
        (tmp_path / name).mkdir()
    job = JobSpec.model_validate(
        {
            "name": "j",
            "task": "math",
            "prompts": {"train": ["a.jsonl", "b.jsonl"], "validation": "v.jsonl"},
            "generate": {
                "teachers": [
                    {"name": "t", "model": "big"},
                    {"name": "u", "kind": "fake", "model": "big"},
                ]
            },
            "train": {
                "student": "./small",
                "tokenizer": "owner/name",
                "loss": "forward_kl",
                "teacher": {"model": "live"},
            },
            "evaluate": {
                "lm_eval": ["tasks/a.yaml"],
                "judge": {"teacher": {"name": "k", "model": "big"}, "rubric": "rubrics/r.txt"},
            },
        }
    )
    if source == "a file":
        (tmp_path / "job.yaml").write_text(dump_job(job))
        found = load_job(tmp_path / "job.yaml")
    else:
        monkeypatch.chdir(tmp_path)
        found = with_absolute_paths(job)
    assert found.prompts.train == [f"{tmp_path}/a.jsonl", f"{tmp_path}/b.jsonl"]
    assert found.prompts.validation == f"{tmp_path}/v.jsonl"
    assert [teacher.model for teacher in found.generate.teachers] == [f"{tmp_path}/big", "big"]
    assert (found.train.student, found.train.tokenizer) == (f"{tmp_path}/small", "owner/name")
    assert found.train.teacher.model == f"{tmp_path}/live"
    assert found.evaluate.lm_eval == [f"{tmp_path}/tasks/a.yaml"]
    judge = found.evaluate.judge
    assert (judge.rubric, judge.teacher.model) == (f"{tmp_path}/rubrics/r.txt", f"{tmp_path}/big")


def test_a_relative_job_from_python_reaches_the_run_as_absolute(fake_job, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = fake_job(4)
    job = job.model_copy(
        update={"prompts": job.prompts.model_copy(update={"train": "train.jsonl"})}
    )
    done = pipeline.run(job, tmp_path / "runs", until="prompts")
    assert load_run(done.root).prompts.train == f"{tmp_path}/train.jsonl"


def test_a_model_without_a_job_is_served_by_sets_alone():
    assert load_serve([]) == ServeOnly()
    only = load_serve(["device=cpu", "serve.port=8001", "serve.api_keys={ann: KEY}"])
    assert (only.device, only.serve.port, only.serve.api_keys) == ("cpu", 8001, {"ann": "KEY"})


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("serve.prot=8001", "--set serve.prot=8001: serve.prot: unknown field; did you mean port?"),
        ("serve.host=0.0.0.0", "serve.host=0.0.0.0 is not loopback"),
        ("train.epochs=1", "--set train.epochs=1: train: unknown field; the fields here are"),
        ("serve.port", "--set serve.port: write field=value"),
    ],
)
def test_a_wrong_set_without_a_job_is_named(setting, message):
    with pytest.raises(SpecError) as caught:
        load_serve([setting])
    assert message in str(caught.value)


def test_files_of_test_data_lie_beside_the_job_and_a_pattern_stands_for_what_is_there(tmp_path):
    (tmp_path / "bench").mkdir()
    for name in ("b.jsonl", "a.jsonl", "c.txt"):
        (tmp_path / "bench" / name).touch()
    path = tmp_path / "job.yaml"
    leaks = "decontaminate: {against: [t.jsonl, bench/*.jsonl, none/*.csv]}"
    path.write_text(
        f"version: 1\nname: j\ntask: qa\nprompts: {{train: a.jsonl, {leaks}}}\n"
        f"generate: {{teachers: [{{name: t, model: m}}]}}\ncurate: {{{leaks}}}\n"
        "train: {student: s}\n"
    )
    job = load_job(path)
    for found in (job.prompts.decontaminate, job.curate.decontaminate):
        assert found.against == [
            str(tmp_path / name)
            for name in ("t.jsonl", "bench/a.jsonl", "bench/b.jsonl", "none/*.csv")
        ]
