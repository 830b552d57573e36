"""One job file, two teachers of different architectures, one of them behind an API: one data set,
and what is made of it."""

import json
from collections import Counter

import pytest
import yaml
from conftest import REPOSITORY, SERVER_KEY_ENV, write_prompts

from engine import pipeline
from engine.job.jobfile import load_job
from engine.rows.records import Completion, Example
from engine.rows.tables import read_tables, to_rows
from engine.run.verify import verify

pytestmark = pytest.mark.slow


@pytest.fixture
def job(tmp_path, tiny_llama, vllm_server, ray_cluster):
    """A job file with a tiny Llama here and the quickstart's teacher behind the OpenAI protocol."""

    def write(routes=(), **generate):
        local = {
            "name": "llama",
            "routes": list(routes),
            "model": str(tiny_llama),
            "dtype": "float32",
            "kv_cache_gib": 0.25,
        }
        api = {
            "name": "api",
            "kind": "openai",
            "model": "quickstart",
            "base_url": f"{vllm_server}/v1",
        }
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


def rows_of(run, stage, kind, split=None):
    return [
        row for table in read_tables(run.stages[stage].files(split)) for row in to_rows(table, kind)
    ]


def test_both_answer_every_prompt_and_curate_and_train_take_them(job, tmp_path):
    write_prompts(tmp_path / "train.jsonl", 24)
    write_prompts(tmp_path / "validation.jsonl", 8, first=1000)
    run = pipeline.run(job(), tmp_path / "runs", until="train")
    rows = rows_of(run, "generate", Completion)
    assert Counter((row.teacher, row.split) for row in rows) == {
        (name, split): count
        for name in ("llama", "api")
        for split, count in (("train", 24), ("validation", 8))
    }
    assert {row.status for row in rows} <= {"ok", "truncated", "empty", "loop"}
    assert all(row.text and row.prompt_tokens > 8 for row in rows if row.teacher == "api")
    assert all(
        len(row.token_ids) == row.completion_tokens for row in rows if row.teacher == "llama"
    )
    told = {teacher.name: teacher for teacher in run.manifests["generate"].info.teachers}
    assert {name: (teacher.kind, teacher.rows) for name, teacher in told.items()} == {
        "llama": ("vllm", 32),
        "api": ("openai", 32),
    }
    assert {example.teacher for example in rows_of(run, "curate", Example, "train")} == {
        "llama",
        "api",
    }
    assert (
        run.manifests["train"].rows_in
        == run.manifests["curate"].rows_out
        == len(rows_of(run, "curate", Example, "train"))
        > 24
    )
    losses = [
        json.loads(line)
        for line in (run.folders["train"] / "metrics.jsonl").read_text().splitlines()
    ]
    assert any("loss" in line for line in losses)
    assert (run.folders["train"] / "student/config.json").exists()
    assert verify(run.root).problems == []


def test_a_field_of_the_prompts_sends_each_to_one_of_them(job, tmp_path):
    for name, first, count in (("train", 0, 20), ("validation", 1000, 6)):
        rows = [
            {"prompt": f"What is {n} plus 2?", "language": "en" if n % 4 == 0 else "de"}
            for n in range(first, first + count)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = pipeline.run(
        job(routes=["en"], route="by", route_by="language"), tmp_path / "runs", until="curate"
    )
    rows = rows_of(run, "generate", Completion)
    assert Counter((row.teacher, row.split) for row in rows) == {
        ("llama", "train"): 5,
        ("api", "train"): 15,
        ("llama", "validation"): 2,
        ("api", "validation"): 4,
    }
    assert len({row.prompt_id for row in rows}) == 26
    assert verify(run.root).problems == []
