"""Conversations turn by turn on the real components, with tiny models: schema-guided dialogues with
a teacher of ours, and dialogues that call a tool, taught by an API and read by vLLM's parser."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY
from doubles import misbehaving_api
from doubles.sky_expert import CITIES, NAMES, TEMPLATE, WEATHER, expert

from benchmarks.serving.stand_ins import free_port
from engine.job.jobfile import dump_job
from engine.job.spec import JobSpec
from engine.rows.records import Completion, Prompt
from engine.rows.tables import read_tables, to_rows
from engine.run.manifests import finished

pytestmark = pytest.mark.proof
QUICKSTART = REPOSITORY / "jobs/quickstart"
KEY_ENV = "DISTILL_TEST_API_KEY"
SKIES = ("dry", "wet", "cold", "warm")
QUESTIONS = ("Is it nice in {}?", "What of {}?", "Tell me of {}.", "How is {}?")
GREETINGS = ("Hi, I am {}.", "Hello from {}.")


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


def the_stage(run_folder: Path, name: str):
    (folder,) = run_folder.glob(f"?-{name}-*")
    return finished(folder)


def rows_in(stage, kind, *split):
    return [row for table in read_tables(stage.files(*split)) for row in to_rows(table, kind)]


def a_job(folder: Path, name: str, rows: list[dict], **blocks) -> dict:
    source = folder / "dialogues.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = {
        "name": name,
        "task": "conversation",
        "device": "cpu",
        "prompts": {"train": str(source), "turns": "each", "validation_fraction": 0.15},
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
        "evaluate": {"dtype": "float32", "kv_cache_gib": 0.25, "bootstrap_samples": 200},
        "serve": {"dtype": "float32", "kv_cache_gib": 0.25, "port": free_port()},
        "loadtest": {"models": ["student"], "concurrency": [1], "seconds": 2, "warmup_seconds": 0},
    }
    for block, fields in blocks.items():
        job[block] = job.get(block, {}) | fields
    return job


def with_tools(folder: Path) -> Path:
    """The quickstart's tokenizer with a template that knows tools."""
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((QUICKSTART / "teacher" / name).read_bytes())
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def dialogue(draw: random.Random) -> dict:
    """A greeting, a question that wants a tool, what the tool says, and the answer."""
    name, city, sky = draw.choice(NAMES), draw.choice(CITIES), draw.choice(SKIES)
    call = {"id": "x", "function": {"name": "sky", "arguments": json.dumps({"city": city})}}
    return {
        "tools": [WEATHER],
        "messages": [
            {"role": "user", "content": draw.choice(GREETINGS).format(name)},
            {"role": "assistant", "content": f"Hello, {name}."},
            {"role": "user", "content": draw.choice(QUESTIONS).format(city)},
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "x", "content": sky},
            {"role": "assistant", "content": f"It is {sky} in {city}."},
        ],
    }


def test_a_student_learns_to_call_a_tool_from_an_api_and_is_scored_on_its_calls(
    tmp_path, record_property
):
    draw = random.Random(0)
    rows = [dialogue(draw) for _ in range(400)]
    with misbehaving_api.serve(answer=expert) as api:
        teacher = {
            "name": "expert",
            "kind": "openai",
            "model": "m",
            "base_url": f"{api.url}/v1",
            "api_key_env": KEY_ENV,
        }
        job = a_job(
            tmp_path,
            "tools",
            rows,
            generate={"teachers": [teacher], "sampling": {"max_tokens": 64}},
            train={"tokenizer": str(with_tools(tmp_path / "tokenizer")), "epochs": 25},
            evaluate={"tool_parser": "hermes"},
        )
        folder = run(job, tmp_path, **{KEY_ENV: misbehaving_api.KEY})
    prompts = rows_in(the_stage(folder, "prompts"), Prompt, "validation")
    assert {prompt.messages[-1]["role"] for prompt in prompts} == {"user", "tool"}
    said = rows_in(the_stage(folder, "generate"), Completion)
    assert {row.status for row in said} == {"ok"}
    assert sum(row.tool_calls is not None for row in said) >= len(said) / 4
    info = the_stage(folder, "evaluate").manifest.info
    record_property("metrics", info.metrics)
    assert info.metrics["tool_calls"]["teacher"] == 1
    assert info.metrics["tool_calls"]["student"] >= 0.5 > info.metrics["tool_calls"]["baseline"]
    assert info.metrics["needless_calls"]["student"] <= 0.2
    (baseline, *_) = info.comparisons["baseline"]
    assert baseline.clusters < baseline.n
    assert (folder / "report.html").exists()


def schema_guided(number: int, draw: random.Random) -> dict:
    name, city = draw.choice(NAMES), draw.choice(CITIES)
    turns = [("USER", f"I am {name}. A taxi?", [])]
    turns += [("SYSTEM", "Where do you want to go?", [])]
    turns += [
        ("USER", f"To {city}.", []),
        ("SYSTEM", f"A taxi to {city} for {name}?", [name, city]),
    ]
    frames = []
    for speaker, text, values in turns:
        actions = [{"slot": "value", "values": [value]} for value in values]
        frames.append({"speaker": speaker, "utterance": text, "frames": [{"actions": actions}]})
    return {"dialogue_id": f"d{number}", "turns": frames}


def test_schema_guided_dialogues_go_the_whole_way_turn_by_turn(tmp_path, record_property):
    draw = random.Random(1)
    rows = [schema_guided(number, draw) for number in range(120)]
    teacher = {
        "name": "teacher",
        "model": str(QUICKSTART / "teacher"),
        "dtype": "float32",
        "kv_cache_gib": 0.25,
    }
    job = a_job(
        tmp_path,
        "turns",
        rows,
        generate={"teachers": [teacher], "sampling": {"max_tokens": 32}},
    )
    folder = run(job, tmp_path)
    stage = the_stage(folder, "prompts")
    splits = {}
    for split in ("train", "validation"):
        for prompt in rows_in(stage, Prompt, split):
            splits.setdefault(json.loads(prompt.meta)["dialogue_id"], set()).add(split)
    assert {frozenset(one) for one in splits.values()} == {
        frozenset({"train"}),
        frozenset({"validation"}),
    }
    info = the_stage(folder, "evaluate").manifest.info
    record_property("metrics", info.metrics)
    (baseline, *_) = info.comparisons["baseline"]
    assert baseline.clusters < baseline.n
    assert info.metrics["slots"]["student"] is not None
    assert (folder / "report.html").exists()
