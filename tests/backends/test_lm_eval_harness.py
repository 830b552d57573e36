import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from engine.backends.lm_eval_harness import Served, opened
from engine.errors import StageError

FAKE = str(Path(__file__).parents[1] / "drivers/fake_lm_eval.py")
STUDENT = Served("student", "http://127.0.0.1:1/v1", "the key", "folder", None, False, 64, 7)


def harness(tmp_path, fault=""):
    return opened(["a.yaml"], tmp_path / "work", (sys.executable, FAKE, fault))


def children_with(words):
    """Processes of this one with these words among their arguments."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):  # others of the session may have ended, and have none
            if words in " ".join(child.cmdline()):
                found.append(child)
    return found


def test_a_model_is_scored_with_progress_and_the_process_ends_with_the_block(tmp_path):
    told = []
    with harness(tmp_path) as running:
        assert running.version == "0.0"
        assert running.tasks["choice"]["kind"] == "multiple_choice"
        samples = tmp_path / "student.jsonl"
        said = running.score(STUDENT, samples, 100, lambda done, total: told.append((done, total)))
        (process,) = children_with(FAKE)
    assert not process.is_running()
    assert told == [(1, 2), (2, 2)]
    assert said["scores"][0]["value"] == 0.5
    assert samples.read_text().count("\n") == said["samples"] == 2


def test_the_key_is_in_no_argument(tmp_path):
    with harness(tmp_path) as running:
        running.score(STUDENT, tmp_path / "s.jsonl", 100, lambda done, total: None)
        assert children_with(FAKE)
        assert children_with("the key") == []


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("load", "a.yaml: lm-eval cannot read it; its log is"),
        ("score", "task sums: no; its log is"),
        ("die", r"process ended \(exit status 3\); its log .*log.txt ends: the last words"),
    ],
)
def test_what_goes_wrong_is_told_with_the_log(tmp_path, fault, words):
    with (
        pytest.raises(StageError, match=f"evaluate.lm_eval: .*{words}"),
        harness(tmp_path, fault) as running,
    ):
        running.score(STUDENT, tmp_path / "s.jsonl", 100, lambda done, total: None)
