"""Run a platform's own command line tool (kubectl, sbatch, scontrol, sky) and say what went wrong
in its words."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from engine.errors import CapacityError

_TAIL = 2000  # characters of a tool's last words
_INSTALL = {
    "kubectl": "install it, and point it at your cluster (kubectl config current-context)",
    "sky": "install SkyPilot in an environment of its own, and put its `sky` on PATH",
}
_SLURM = "give the command on a login node of the Slurm cluster"


class ToolFailed(CapacityError):
    """A tool was there and did not do it: its words. A follower asks again."""


def call(words: Sequence[str], text: str = "") -> str:
    """What the tool prints; CapacityError where it is not here, ToolFailed with its last words."""
    _require(words[0])
    done = subprocess.run(list(words), input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-_TAIL:]
        raise ToolFailed(f"{shlex.join(words)} ended with {done.returncode}: {said}")
    return done.stdout


def call_with_file(words: Sequence[str], text: str, suffix: str) -> str:
    """Likewise with `text` in a file behind the words, for a tool that reads no standard input."""
    handle, name = tempfile.mkstemp(prefix="distill-", suffix=suffix)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    try:
        return call([*words, name])
    finally:
        Path(name).unlink()


def stream(words: Sequence[str], on_log: Callable[[str], None]) -> int:
    """The tool's exit code; its lines go to `on_log` as they come."""
    _require(words[0])
    with subprocess.Popen(
        list(words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            on_log(line)
    return process.returncode


def _require(tool: str) -> None:
    if shutil.which(tool) is None:
        raise CapacityError(f"{tool} is not on PATH; {_INSTALL.get(tool, _SLURM)}")
