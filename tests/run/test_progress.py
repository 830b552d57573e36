import io
import json

from rich.console import Console

from engine.run import progress as progress_module
from engine.run.manifests import PROGRESS
from engine.run.progress import Progress, figures_text


def test_plain_lines_carry_notes_once_and_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(progress_module, "PLAIN_SECONDS", 0.0)
    out = io.StringIO()
    progress = Progress(Console(file=out, width=120))
    with progress.stage("generate", tmp_path):
        progress.update(note="starting teacher 'v3'")
        progress.update(done=10, total=100, loss=0.25, **{"tok/s": 1234.0})
        progress.update(done=20, note="starting teacher 'v3'")
    lines = out.getvalue().splitlines()
    assert sum("starting teacher" in line for line in lines) == 1
    assert any(
        "10/100 rows" in line and "loss 0.25" in line and "tok/s 1,234" in line for line in lines
    )


def test_a_wait_without_rows_tells_its_seconds_again_and_again(tmp_path, monkeypatch):
    monkeypatch.setattr(progress_module, "PLAIN_SECONDS", 0.0)
    out = io.StringIO()
    progress = Progress(Console(file=out, width=120))
    with progress.waiting("starting student"):
        progress.update(note="waiting for LLMServer:student")
        progress.update(note="waiting for LLMServer:student")
    progress.update(done=3)
    lines = out.getvalue().splitlines()
    assert lines == [
        "starting student",
        "waiting for LLMServer:student",
        "waiting for LLMServer:student  0 s",
        "0 s",
    ]


def test_the_file_says_how_far_it_is(tmp_path):
    with Progress().stage("train", tmp_path):
        pass
    progress = Progress()
    with progress.stage("train", tmp_path):
        progress.update(done=3, total=9, unit="steps", level="teacher at concurrency=1")
    seen = json.loads((tmp_path / PROGRESS).read_text())
    assert (seen["done"], seen["total"], seen["unit"]) == (3, 9, "steps")
    assert figures_text(seen["figures"]) == "level teacher at concurrency=1"


def test_a_terminal_gets_a_bar(tmp_path):
    out = io.StringIO()
    progress = Progress(Console(file=out, force_terminal=True, width=120))
    with progress.stage("train", tmp_path):
        progress.update(done=5, total=10, loss=0.5)
    assert "train" in out.getvalue()
    assert "5/10" in out.getvalue()
