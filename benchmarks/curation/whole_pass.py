"""The driver of one pass over files of texts (passes.py), which says what it cost:

python -m benchmarks.curation.whole_pass FOLDER WORKERS
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

from benchmarks.curation.passes import (
    Pass,
    candidates,
    decide,
    driver_mib,
    sign_all,
    verified,
)


def main() -> None:
    """Its figures go to `figures.json` in the folder."""
    over = Pass(Path(sys.argv[1]), int(sys.argv[2]))
    started = time.monotonic()
    seconds = {}

    def lap(step: str) -> None:
        seconds[step] = round(time.monotonic() - started - sum(seconds.values()), 2)

    counts = sign_all(over)
    lap("sign")
    pairs = candidates(over)
    lap("bands")
    similar = verified(over, pairs, counts)
    lap("verify")
    outcome = decide(pairs, similar)
    lap("decide")
    figures = {
        "rows": sum(counts),
        "workers": over.workers,
        "candidates": len(pairs),
        "twins": outcome.twins,
        "rows_beside_components": outcome.beside_components,
        "wall_s": round(time.monotonic() - started, 2),
        "wall_by_step_s": seconds,
        "cpu_s": round(cpu_s(), 2),
        "driver_mib": driver_mib(),
    }
    (over.folder / "figures.json").write_text(json.dumps(figures))


def cpu_s() -> float:
    """Seconds of processor of this process and of those that it started and that ended."""
    used = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        used += usage.ru_utime + usage.ru_stime
    return used


if __name__ == "__main__":
    main()
