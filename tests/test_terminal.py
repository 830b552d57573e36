"""What a person sees on a real terminal: our lines, and nobody else's."""

import os
import pty
import re
import subprocess
import sys
import time

from conftest import REPOSITORY

SCRIPT = """
import logging, sys, time
from pathlib import Path
from engine.run.terminal import quiet
from engine.run.progress import Progress
with quiet(Path(sys.argv[1])) as console:
    progress = Progress(console)
    with progress.waiting("starting Ray here"):
        print("NOISE while waiting", flush=True)
        progress.update(note="waiting for student")
        time.sleep(1.2)
    with progress.stage("train", Path(sys.argv[1]).parent):
        for done in range(20):
            progress.update(done=done, total=20, unit="steps", loss=0.5)
            print("NOISE on stdout", flush=True)
            sys.stderr.write("NOISE on stderr\\n")
            logging.getLogger("httpx").warning("NOISE of a logger")
            time.sleep(0.02)
    progress.say("train     done    4-train-0123  20 rows in 1 s")
"""


def on_a_terminal(command):
    """Everything that the command writes to a terminal of 120 columns."""
    ours, theirs = pty.openpty()
    env = os.environ | {
        "TERM": "xterm-256color",
        "COLUMNS": "120",
        "LINES": "40",
        "PYTHONPATH": str(REPOSITORY),
    }
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=env, close_fds=True
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the other side is closed
            break
        if not piece:
            break
        seen += piece
    assert process.wait(60) == 0, seen.decode()
    os.close(ours)
    return seen.decode()


def screen(seen):
    """The lines that stay when all is over: a bar that was erased is none."""
    lines = [""]
    for piece in re.split(r"(\x1b\[[0-9;?]*[A-Za-z]|\r|\n)", seen):
        if piece == "\n":
            lines.append("")
        elif re.fullmatch(r"\x1b\[1A", piece):
            lines.pop() if len(lines) > 1 else None
        elif re.fullmatch(r"\x1b\[2K", piece):
            lines[-1] = ""
        elif piece and not piece.startswith("\x1b") and piece != "\r":
            lines[-1] += piece
    return [line.strip() for line in lines if line.strip()]


def test_no_line_of_a_third_party_appears_and_a_finished_stage_is_one_line(tmp_path):
    log = tmp_path / "logs/run.log"
    began = time.monotonic()
    seen = on_a_terminal([sys.executable, "-c", SCRIPT, str(log)])
    assert "NOISE" not in seen
    assert log.read_text().count("NOISE") == 1 + 3 * 20
    assert "starting Ray here" in seen
    assert "waiting for student" in seen
    assert "0:00:01" in seen, "the seconds of what is waited for are shown"
    assert "19/20" in seen
    assert screen(seen) == ["train     done    4-train-0123  20 rows in 1 s"]
    assert time.monotonic() - began < 60
