"""`make lint` checks types, and finds one that is wrong."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WRONG = {
    "Shard(3)": "invalid-argument-type",
    "TrainSpec(student='s').loss.skew": "attribute",
    "def parts() -> int:\n    return Receipt('s', 0, 0, 0.0, 0.0)": "invalid-explicit-return",
}
USED = """\
from engine.asking.shards import Receipt, Shard
from engine.job.spec import TrainSpec

"""


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_type_is_found(line, tmp_path):
    planted = tmp_path / "planted.py"
    planted.write_text(USED + line + "\n")
    command = [sys.executable, "-m", "ty", "check", "--python", sys.prefix, "--project", str(ROOT)]
    found = subprocess.run([*command, str(planted)], capture_output=True, text=True, check=False)
    assert found.returncode == 1, found.stdout + found.stderr
    assert WRONG[line] in found.stdout


def test_lint_calls_the_type_checker_on_the_engine():
    assert "ty check --python $(VENV) engine" in (ROOT / "Makefile").read_text()
    assert (ROOT / ".ci/run").read_text().count("make lint\n") == 1
