"""A job's own first rows, and those that are made up where it has none here."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
from conftest import REPOSITORY

from engine.job.jobfile import load_job
from engine.rehearsal.made_rows import TASKS, made_rows
from engine.rehearsal.own_rows import own_rows
from engine.rows.final_answer import is_readable

QA = REPOSITORY / "jobs/gpt-4-to-phi-3.5-mini.yaml"


def job_with(path, *sets, base=QA):
    return load_job(base, [f"prompts.train={path}", "prompts.validation=null", *sets])


def test_rows_are_copied_as_they_are_written(rows, tmp_path):
    path = rows()
    own = own_rows(job_with(path), "train", tmp_path / "out", longest=1000)
    (file,) = own.files
    assert file.endswith(".jsonl")
    lines = path.read_text().splitlines()
    assert (tmp_path / "out" / file).read_text().splitlines() == lines[:24]
    assert own.prompts[3].reference == "4"


def test_of_two_splits_each_has_its_share(rows, tmp_path):
    job = job_with(rows(), f"prompts.validation={rows('held-out.jsonl')}")
    counts = [
        len(own_rows(job, split, tmp_path, 1000).prompts) for split in ("train", "validation")
    ]
    assert counts == [16, 8]


def test_rows_that_are_none_or_too_long_are_left_out(rows, tmp_path):
    path = rows(count=30)
    long = json.dumps({"prompt": "word " * 500, "reference": "1"})
    path.write_text("{broken\n" + long + "\n" + path.read_text())
    own = own_rows(job_with(path), "train", tmp_path, longest=200)
    assert len(own.prompts) == 24
    assert max(prompt.characters for prompt in own.prompts) < 200
    assert "broken" not in (tmp_path / own.files[0]).read_text()


def test_where_all_are_long_the_shortest_are_taken(rows, tmp_path):
    path = rows(words=100)
    own = own_rows(job_with(path), "train", tmp_path, longest=10)
    assert len(own.prompts) == 24


def test_parquet_stays_parquet(tmp_path):
    table = pa.table({"prompt": [f"q{n}" for n in range(30)], "reference": list(range(30))})
    pq.write_table(table, tmp_path / "rows.parquet")
    own = own_rows(job_with(tmp_path / "rows.parquet"), "train", tmp_path / "out", 1000)
    assert pq.read_table(own.files[0]).equals(table.slice(0, 24))


def test_a_dialogue_of_many_turns_is_a_few_rows(tmp_path):
    turns = [
        {"role": role, "content": f"{role} {n}"} for n in range(6) for role in ("user", "assistant")
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text((json.dumps({"messages": turns}) + "\n") * 20)
    job = job_with(path, "prompts.turns=each", "task=conversation")
    own = own_rows(job, "train", tmp_path / "out", 1000)
    assert len((tmp_path / own.files[0]).read_text().splitlines()) == 4
    assert len(own.prompts) == 24


def test_files_that_are_not_here_give_none(tmp_path):
    assert own_rows(job_with(tmp_path / "gone.jsonl"), "train", tmp_path, 1000) is None
    assert own_rows(job_with("hf://owner/data"), "train", tmp_path, 1000) is None


def test_made_rows_fit_every_task(tmp_path):
    for task in TASKS:
        job = job_with("gone.jsonl", f"task={task}")
        made = made_rows(job, "train", tmp_path / task)
        assert len(made.prompts) == 24
        assert all(prompt.right_answers for prompt in made.prompts)
        if task in ("math", "nli", "qa"):
            assert all(is_readable(task, prompt.reference) for prompt in made.prompts), task


def test_made_rows_have_the_columns_that_the_job_names(tmp_path):
    sets = [
        "prompts.fields={id: key, reference: gold, system: rules}",
        'prompts.template="{premise} / {claim}"',
        "evaluate.cluster_by=origin",
    ]
    made = made_rows(job_with("gone.jsonl", *sets), "train", tmp_path)
    row = json.loads((tmp_path / made.files[0]).read_text().splitlines()[0])
    assert {"key", "gold", "rules", "premise", "claim", "origin"} <= row.keys()
    assert made.prompts[0].source_id == "row-1"


def test_made_rows_go_to_every_teacher(tmp_path):
    base = REPOSITORY / "jobs/gpt-4-to-phi-3.5-mini.yaml"
    teacher = "{kind: openai, model: m, api_key_env: K, prices: {input: 1.0, output: 1.0}, "
    teachers = [f"{teacher} name: {name}, routes: [{name}]}}" for name in ("en", "de")]
    sets = [f"generate.teachers=[{', '.join(teachers)}]", "generate.route=by"]
    job = job_with("gone.jsonl", *sets, "generate.route_by=language", base=base)
    made = made_rows(job, "train", tmp_path)
    rows = [json.loads(line) for line in (tmp_path / made.files[0]).read_text().splitlines()]
    assert {row["language"] for row in rows} == {"en", "de"}
