"""A command in life after life, most of which end (SIGKILL) where it is about to publish a file:
the bytes are on the disk under a temporary name, and the file's own name is not there yet.

python killed_command.py PLAN.json: {typed: [argument, …], run: its folder, lives: [ending of a
path, or null to live on, …], told: file}

Each life is a fork of this process, which has imported what takes seconds. `told` is a list of
{status, files: {name: [mtime in ns, sha256]}}, as each life left the stages of the run.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from engine import pipeline  # noqa: F401  once here, not in every life
from engine.cli import main
from engine.stages import curate  # noqa: F401
from engine.store.files import file_sha256


def die_before(ending: str) -> None:
    """At the first file whose path ends so."""

    def look(event: str, arguments: tuple) -> None:
        if event == "os.rename" and str(arguments[1]).endswith(ending):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(look)


def live(typed: list[str], ending: str | None) -> int:
    """The exit status, or the signal below 0."""
    child = os.fork()
    if not child:
        if ending is not None:
            die_before(ending)
        try:
            main(typed, standalone_mode=False)
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def files_of_stages(run: Path) -> dict[str, Any]:
    """When each was written, and what it holds."""
    found = {}
    for path in run.glob("[0-9]-*/**/*"):
        if path.is_file():
            name = str(path.relative_to(run))
            found[name] = [path.stat().st_mtime_ns, file_sha256(path)]
    return found


if __name__ == "__main__":
    plan = json.loads(Path(sys.argv[1]).read_text())
    told = []
    for death in plan["lives"]:
        end = live(plan["typed"], death)
        told.append({"status": end, "files": files_of_stages(Path(plan["run"]))})
    Path(plan["told"]).write_text(json.dumps(told))
