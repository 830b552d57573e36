"""Programs of this benchmark in fresh processes: what they cost is theirs alone."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
FIGURES = "figures.json"


def figures_of(
    work: Path, program: str, *arguments: object, python: Path = Path(sys.executable)
) -> dict[str, Any]:
    """The figures that a program beside this file, told the folder first, leaves in it;
    CalledProcessError if it fails."""
    command = [str(python), "-m", f"benchmarks.curation.{program}", str(work)]
    variables = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, *map(str, arguments)], env=variables, check=True)
    return json.loads((work / FIGURES).read_text())


@contextmanager
def folder(named: Path | None = None) -> Iterator[Path]:
    """This folder, or one that is gone afterwards."""
    if named is not None:
        yield named.absolute()
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)


def cpu_s() -> float:
    """Seconds of processor of this process and of those that it started and that ended."""
    used = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        used += usage.ru_utime + usage.ru_stime
    return used


def driver_mib() -> float:
    """Greatest resident memory of this process so far. Of the kernel's own books, since ru_maxrss
    begins with that of the process which started it."""
    status = Path("/proc/self/status").read_text()
    (kib,) = re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return round(int(kib) / 1024, 1)


def worker_mib() -> float:
    """Greatest resident memory of any process that it started and that ended, or its own where
    that was more when it started them."""
    return round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, 1)
