"""One job file, two teachers, one of them behind an API: one data set, and what is made of it.

The suite has a fake teacher beside a real client of a local API, in this process; `make proof` a
tiny Llama in vLLM beside vLLM's own server, on real replicas and workers.
"""

import json
from collections import Counter

import pytest
import yaml
from conftest import REPOSITORY, SERVER_KEY_ENV, write_prompts
from doubles import misbehaving_api
from doubles.torch_engine import GENERATE, TorchEngine, run_in_process

from engine import pipeline
from engine.job.jobfile import load_job
from engine.rows.records import Completion, Example
from engine.rows.tables import read_tables, to_rows
from engine.run.context import Context
from engine.run.manifests import finished
from engine.run.verify import verify
from engine.stages import train


@pytest.fixture
def job(tmp_path):
    """A job file with these two teachers."""

    def write(local, api_url, routes=(), **generate):
        local = {"name": "local", "routes": list(routes)} | local
        api = {"name": "api", "kind": "openai", "model": "quickstart", "base_url": f"{api_url}/v1"}
        api["api_key_env"] = SERVER_KEY_ENV
        content = {
            "version": 1,
            "name": "two",
            "task": "math",
            "device": "cpu",
            "prompts": {
                "train": str(tmp_path / "train.jsonl"),
                "validation": str(tmp_path / "validation.jsonl"),
            },
            "generate": {
                "teachers": [local, api],
                "sampling": {"temperature": 0.7, "max_tokens": 24},
            }
            | generate,
            "curate": {"check_reference": False, "keep_truncated": True},
            "train": {
                "student": str(REPOSITORY / "jobs/quickstart/student"),
                "init": "random",
                "block_tokens": 256,
                "epochs": 1,
                "workers": 1,
                "tokenizer": str(REPOSITORY / "jobs/quickstart/teacher"),
                "loss": "sft",
                "precision": "fp32",
                "zero_stage": 0,
            },
            "loadtest": {"models": []},
        }
        (tmp_path / "two.yaml").write_text(yaml.safe_dump(content))
        return load_job(tmp_path / "two.yaml", [])

    return write


@pytest.fixture
def small(job, answer_here, tmp_path, monkeypatch):
    """Prompts to curate of a fake teacher and one behind a local API, in this process; the job and
    the run."""
    monkeypatch.setenv(SERVER_KEY_ENV, misbehaving_api.KEY)

    def run(**changes):
        with misbehaving_api.serve() as api:
            made = job({"kind": "fake", "model": "fake"}, api.url, **changes)
            answer_here(made, tmp_path / "runs")
        return made, pipeline.run(made, tmp_path / "runs", until="curate")

    return run


@pytest.fixture
def real(job, tmp_path, tiny_llama, vllm_server, ray_cluster):
    """The same of a tiny Llama here and the quickstart's teacher behind vLLM's server, up to a
    stage."""
    local = {"model": str(tiny_llama), "dtype": "float32", "kv_cache_gib": 0.25}

    def run(until, **changes):
        return pipeline.run(job(local, vllm_server, **changes), tmp_path / "runs", until=until)

    return run


def rows_of(run, stage, kind, split=None):
    return [
        row for table in read_tables(run.stages[stage].files(split)) for row in to_rows(table, kind)
    ]


def plain_prompts(tmp_path):
    write_prompts(tmp_path / "train.jsonl", 24)
    write_prompts(tmp_path / "validation.jsonl", 8, first=1000)


def in_two_languages(tmp_path):
    for name, first, count in (("train", 0, 20), ("validation", 1000, 6)):
        rows = [
            {"prompt": f"What is {n} plus 2?", "language": "en" if n % 4 == 0 else "de"}
            for n in range(first, first + count)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def require_answers_of_both(run, kinds):
    """Each of the two has a row for each prompt, and curate keeps rows of both."""
    rows = rows_of(run, "generate", Completion)
    assert Counter((row.teacher, row.split) for row in rows) == {
        (name, split): count
        for name in ("local", "api")
        for split, count in (("train", 24), ("validation", 8))
    }
    told = {teacher.name: teacher for teacher in run.manifests["generate"].info.teachers}
    assert {name: (teacher.kind, teacher.rows) for name, teacher in told.items()} == {
        name: (kind, 32) for name, kind in kinds.items()
    }
    assert {example.teacher for example in rows_of(run, "curate", Example, "train")} == set(kinds)
    return rows


def require_one_answer_each(run):
    rows = rows_of(run, "generate", Completion)
    assert Counter((row.teacher, row.split) for row in rows) == {
        ("local", "train"): 5,
        ("api", "train"): 15,
        ("local", "validation"): 2,
        ("api", "validation"): 4,
    }
    assert len({row.prompt_id for row in rows}) == 26
    assert verify(run.root).problems == []


def require_training_on_all(folder, run, counts):
    """Training took each row that curate kept, of both teachers."""
    kept = len(rows_of(run, "curate", Example, "train"))
    assert counts.rows_in == run.manifests["curate"].rows_out == kept > 24
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert any("loss" in json.loads(line) for line in lines)
    assert (folder / "student/config.json").exists()
    assert verify(run.root).problems == []


def test_both_answer_every_prompt_and_curate_and_train_take_them(small, tmp_path):
    plain_prompts(tmp_path)
    job, run = small()
    require_answers_of_both(run, {"local": "fake", "api": "openai"})
    out = tmp_path / "trained"
    out.mkdir()
    counts = train.run(
        job.train,
        {"curate": finished(run.folders["curate"])},
        out,
        Context(job.name, job.task, job.seed),
        GENERATE,
        launch=run_in_process,
        build_engine=TorchEngine,
    )
    require_training_on_all(out, run, counts)


def test_a_field_of_the_prompts_sends_each_to_one_of_them(small, tmp_path):
    in_two_languages(tmp_path)
    _, run = small(routes=["en"], route="by", route_by="language")
    require_one_answer_each(run)


@pytest.mark.proof
def test_real_engines_answer_every_prompt_and_curate_and_real_workers_take_them(real, tmp_path):
    plain_prompts(tmp_path)
    run = real("train")
    rows = require_answers_of_both(run, {"local": "vllm", "api": "openai"})
    assert {row.status for row in rows} <= {"ok", "truncated", "empty", "loop"}
    assert all(row.text and row.prompt_tokens > 8 for row in rows if row.teacher == "api")
    assert all(
        len(row.token_ids) == row.completion_tokens for row in rows if row.teacher == "local"
    )
    require_training_on_all(run.folders["train"], run, run.manifests["train"])


@pytest.mark.proof
def test_a_field_of_the_prompts_sends_each_to_one_of_two_real_engines(real, tmp_path):
    in_two_languages(tmp_path)
    require_one_answer_each(real("curate", routes=["en"], route="by", route_by="language"))
