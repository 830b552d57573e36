"""Every job of jobs/ in small, from end to end; and a mistake that only an engine finds."""

import re
import time

import pytest
from conftest import REPOSITORY, distill

JOBS = sorted((REPOSITORY / "jobs").glob("*.yaml"))
LONGEST_S = 360  # on two cores

pytestmark = [pytest.mark.proof, pytest.mark.slow]


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_every_job_goes_through(path, tmp_path, record_property):
    began = time.monotonic()
    done = distill("rehearse", path, "--runs", tmp_path / "runs", timeout=1200)
    seconds = time.monotonic() - began
    record_property("seconds", round(seconds))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "all went through" in done.stdout
    assert not list((tmp_path / "runs").glob(".rehearsals/*"))
    assert seconds <= LONGEST_S


def test_what_only_an_engine_finds_has_its_stage_and_line(tmp_path):
    path = REPOSITORY / "jobs/llama-3.1-405b-to-llama-3.1-8b.yaml"
    wrong = "generate.teachers.0.engine_args={tokenizer_mode: slwo}"
    done = distill("rehearse", path, "--set", wrong, "--runs", tmp_path / "runs", timeout=600)
    assert done.returncode == 1
    assert re.search(r"generate failed: --set generate\.teachers\.0\.engine_args", done.stderr)
    assert list((tmp_path / "runs").glob(".rehearsals/*/logs/rehearse.log"))
