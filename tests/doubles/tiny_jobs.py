"""Jobs of any task in small: a student with the quickstart's tokenizer, run by the command, and
what lies in the folders of the run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from conftest import REPOSITORY

from benchmarks.serving.stand_ins import free_port
from doubles import misbehaving_api
from engine.job.jobfile import dump_job
from engine.job.spec import JobSpec
from engine.rows.tables import read_tables, to_rows
from engine.run.manifests import Finished, finished

QUICKSTART = REPOSITORY / "jobs/quickstart"
KEY_ENV = "DISTILL_TEST_API_KEY"


def run(job: dict, folder: Path, **environment: str) -> Path:
    """Run the job by its command; gives the run's folder."""
    file = folder / "job.yaml"
    file.write_text(dump_job(JobSpec.model_validate(job)))
    command = [sys.executable, "-m", "engine.cli", "run", str(file), "--runs", str(folder / "runs")]
    done = subprocess.run(
        command,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return folder / "runs" / job["name"]


def the_stage(run_folder: Path, name: str) -> Finished:
    """A stage of the run, which has it once."""
    (folder,) = run_folder.glob(f"?-{name}-*")
    return finished(folder)


def rows_in(stage: Finished, kind: type, *split: str) -> list[Any]:
    """All rows of a stage's files."""
    return [row for table in read_tables(stage.files(*split)) for row in to_rows(table, kind)]


def a_job(folder: Path, task: str, name: str, rows: list[dict], **blocks: dict) -> dict[str, Any]:
    """A job on these rows; `blocks` says what else it wants."""
    source = folder / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    job: dict[str, Any] = {
        "name": name,
        "task": task,
        "device": "cpu",
        "prompts": {"train": str(source), "validation_fraction": 0.15},
        "train": {
            "student": str(QUICKSTART / "student"),
            "init": "random",
            "tokenizer": str(QUICKSTART / "teacher"),
            "loss": "sft",
            "learning_rate": 4e-3,
            "warmup_ratio": 0.1,
            "block_tokens": 512,
            "batch_size": 4,
            "workers": 1,
            "precision": "fp32",
            "epochs": 3,
        },
        "evaluate": {"dtype": "float32", "kv_cache_gib": 0.25, "bootstrap_samples": 1000},
        "serve": {"dtype": "float32", "kv_cache_gib": 0.25, "port": free_port()},
        "loadtest": {"models": ["student"], "concurrency": [1], "seconds": 2, "warmup_seconds": 0},
    }
    for block, fields in blocks.items():
        job[block] = job.get(block, {}) | fields
    return job


def api_teacher(api: misbehaving_api.Api) -> dict[str, str]:
    """A teacher behind the API, whose key is in KEY_ENV."""
    return {
        "name": "expert",
        "kind": "openai",
        "model": "m",
        "base_url": f"{api.url}/v1",
        "api_key_env": KEY_ENV,
    }
